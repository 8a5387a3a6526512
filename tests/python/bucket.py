"""A real server of S3's protocol, which can be killed, and a proxy before it, which fails."""

import http.client
import http.server
import random
import socket
import subprocess
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

BUCKET = "shop"
READY_SECONDS = 60.0
# What the proxy does to a request, and how often of a hundred times.
FAULTS = {
    "refused": 6,  # 503, and the server never sees it
    "carried out, and answered 503": 5,
    "carried out, and not answered": 5,
    "cut off": 4,  # before the server sees it
    "slow": 10,
}
SLOW_SECONDS = 0.5


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Bucket:
    """SeaweedFS in a process of its own, on ports that the system chose; its objects outlive it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        weed = Path(sysconfig.get_path("scripts")) / "weed"
        names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
                 "s3.port.grpc", "s3.port"]
        ports = dict(zip(names, free_ports(len(names))))
        self.port = ports["s3.port"]
        self.command = [weed, f"-logdir={folder}", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
                        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
                        *(f"-{name}={port}" for name, port in ports.items())]
        self.log = (folder / "said.log").open("ab")
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Bucket":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Until it takes objects."""
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        until = time.monotonic() + READY_SECONDS
        while not (self.takes(BUCKET) and self.takes(f"{BUCKET}/is-it-there")):
            if self.process.poll() is not None or time.monotonic() > until:
                raise OSError(f"SeaweedFS does not start; {self.log.name} says why")
            time.sleep(0.1)

    def takes(self, path: str) -> bool:
        """The bucket, or an object, is made, or there from before."""
        try:
            urllib.request.urlopen(urllib.request.Request(f"{self.url}/{path}", b"", method="PUT"), timeout=10).close()
            return True
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 409
        except OSError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_: Any) -> None:
        if self.process is not None:
            self.kill()
        self.log.close()


class Failing:
    """A proxy that passes requests on to `port`, but for those that meet a fault; `met` counts these."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.random, self.lock = port, random.Random(seed), threading.Lock()
        self.met: Counter[str] = Counter()

    def fault(self) -> str:
        with self.lock:
            [fault] = self.random.choices([*FAULTS, ""], [*FAULTS.values(), 100 - sum(FAULTS.values())])
            self.met[fault] += 1
            return fault

    def __enter__(self) -> "Failing":
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # the client has gone
                    self.close_connection = True

            def pass_on(self) -> None:
                body, fault = self.rfile.read(int(self.headers.get("content-length", 0))), proxy.fault()
                if fault == "refused":
                    return self.reply(503, {}, b"")
                if fault == "cut off":
                    return self.hang_up()
                if fault == "slow":
                    time.sleep(SLOW_SECONDS)
                upstream = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
                try:
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    answer = upstream.getresponse()
                    status, headers, content = answer.status, dict(answer.getheaders()), answer.read()
                except (OSError, http.client.HTTPException):
                    return self.hang_up()
                finally:
                    upstream.close()
                if fault == "carried out, and not answered":
                    return self.hang_up()
                if fault == "carried out, and answered 503":
                    return self.reply(503, {}, b"")
                self.reply(status, headers, content)

            def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response_only(status)
                kept = {name.lower(): value for name, value in headers.items()}
                for name in ("connection", "transfer-encoding"):
                    kept.pop(name, None)
                if self.command != "HEAD":
                    kept["content-length"] = str(len(content))
                for name, value in kept.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def hang_up(self) -> None:
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

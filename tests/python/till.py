"""A small project with one stream and one star, and a server on it: what the tests of load share."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from demo import Failed, Server  # noqa: E402

STREAM = """
stream: sales
domain: shop
description: What the tills say
envelope: { id: id, constant_type: sold, time: at }
events:
  sold:
    versions:
      1:
        fields:
          till:     { type: string, required: true }
          quantity: { type: int, required: true }
"""
FACT = """
fact: sales
description: One row per sale
from: { stream: sales, event: sold }
grain: [event_id]
degenerate: { till: {} }
measures: { quantity: { type: int, additive: full } }
"""
PRODUCT = """
product: sales
version: 1
description: What was sold
owner: shop@example.org
ports:
  sales:
    model: sales
    description: One row per sale
    primary_key: [event_id]
    columns:
      event_id: { type: string, nullable: false }
      till:     { type: string, nullable: false }
      quantity: { type: int, nullable: false }
"""
COUNT = "SELECT count(*) AS n FROM shop.sales_v1.sales"
LANDED = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM lake.shop.sales WHERE rejection IS NULL"


def event(number: int) -> str:
    day = 1 + number % 28
    return f'{{"id":"e{number}","at":"2024-03-{day:02}T00:00:00Z","till":"t{number % 50}","quantity":{1 + number % 9}}}'


def write_project(starmere: Path, project: Path, settings: str = "", gather_ms: int | None = None) -> None:
    subprocess.run([starmere, "init", project], check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name, text in (("streams/sales.yaml", STREAM), ("domains/shop/models/sales.yaml", FACT),
                       ("domains/shop/products/sales_v1.yaml", PRODUCT)):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip(), encoding="utf-8")
    main = project / "starmere.yaml"
    text = main.read_text(encoding="utf-8")
    if gather_ms is not None:
        if "listeners:\n" not in text:
            raise Failed(f"`init` has written no listeners:\n{text}")
        text = text.replace("listeners:\n", f"listeners:\n  gather_ms: {gather_ms}\n")
    main.write_text(text + settings, encoding="utf-8")


class Client:
    """One connection that is kept; asks and posts, and opens it anew where it was closed."""

    def __init__(self, url: str, patience: float = 60.0) -> None:
        self.at, self.patience = urllib.parse.urlparse(url).netloc, patience
        self.connection: http.client.HTTPConnection | None = None

    def request(self, method: str, path: str, body: bytes = b"", content: str = "application/json",
                headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        for attempt in (1, 2):
            fresh = self.connection is None
            if fresh:
                self.connection = http.client.HTTPConnection(self.at, timeout=self.patience)
            try:
                self.connection.request(method, path, body, {"Content-Type": content, **(headers or {})})
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                self.close()
                if fresh or attempt == 2:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def ask(self, sql: str) -> list[dict[str, Any]]:
        status, body = self.request("POST", "/v1/sql?format=json", json.dumps({"sql": sql}).encode())
        if status != 200:
            raise Failed(f"`{sql[:200]}` was answered {status}: {body[:300].decode(errors='replace')}")
        answer = json.loads(body)
        names = [column["name"] for column in answer["columns"]]
        return [dict(zip(names, row)) for row in answer["rows"]]

    def post(self, lines: list[str]) -> int:
        """Posts events; the status."""
        return self.request("POST", "/v1/streams/sales/events", "\n".join(lines).encode(), "application/x-ndjson")[0]

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def resident_mib(process: subprocess.Popen) -> float:
    with open(f"/proc/{process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def processor_seconds(process: subprocess.Popen) -> float:
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


__all__ = ["COUNT", "Client", "Failed", "LANDED", "Server", "event", "processor_seconds", "resident_mib", "threading",
           "time", "write_project"]

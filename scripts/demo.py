#!/usr/bin/env python3
"""A small shop, from events to answers, with what each step takes: `make demo`.

    python scripts/demo.py target/debug/starmere demo [--orders 10000]

    files ──► ingest ──► lake ──► build ──► star ──► Flight SQL ──► the answer, compared with the right one
    HTTP  ──► serve  ────►┘

The first run writes the project; every run lands its files, posts the orders of `events-http`, builds, asks,
and compares. A later run sends all the same events again and changes no count: that is the point of it.
Ports are chosen by the system, and the server is stopped by its own process id, whatever happens.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))

import adbc_driver_flightsql.dbapi as flight_sql  # noqa: E402
import pyarrow  # noqa: E402
from star_query import ask, draw  # noqa: E402

READY_SECONDS = 60.0  # until a server must have said where it listens
STOP_SECONDS = 30.0  # until a server that was told to stop must have ended
POST_LINES = 500  # events in a request
POST_ATTEMPTS = 5
SHOWN_ROWS = 12

STAR_QUERY = """
SELECT c.segment, d.year_month, count(*) AS lines, sum(l.quantity) AS quantity, sum(l.revenue) AS revenue
FROM sales.orders_v1.order_lines l
JOIN customers.customers_v1.customer c ON l.customer_key = c.customer_key
JOIN sales.orders_v1.date d ON l.order_date_key = d.date_key
GROUP BY c.segment, d.year_month
ORDER BY c.segment, d.year_month"""

# What `expected/counts.csv` calls a table, and the port that serves it.
PORTS = {
    "sales.order_lines": "sales.orders_v1.order_lines",
    "sales.priced_lines": "sales.orders_v2.order_lines",
    "sales.orders": "sales.orders_v2.orders",
    "customers.customer": "customers.customers_v1.customer",
    "catalog.product": "catalog.products_v1.product",
    "catalog.category": "catalog.products_v1.category",
    "catalog.department": "catalog.products_v1.department",
    "sales.date": "sales.orders_v1.date",
}


class Failed(Exception):
    """A step that did not come to what it should; the message says why."""


class Server:
    """`starmere serve` (or `up`) of our own, on ports that the system chooses; stopped when left."""

    def __init__(self, starmere: Path, project: Path, command: str = "serve", **environment: str) -> None:
        here = "127.0.0.1:0"
        self.command = [str(starmere), command, "--project", str(project), "--http", here, "--flight", here]
        self.environment = os.environ | environment
        self.said: list[str] = []
        self.flight = self.http = ""
        self._changed = threading.Event()

    def __enter__(self) -> "Server":
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True, errors="replace", env=self.environment)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            if not self._changed.wait(READY_SECONDS) or not (self.flight and self.http):
                raise Failed(f"`{' '.join(self.command)}` did not say where it listens:\n" + self.words())
        except BaseException:
            self.stop()
            raise
        return self

    def _listen(self) -> None:
        """Reads standard error to its end, so that the server never waits for a reader."""
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))
            if found := re.match(r"flight sql +(grpc://\S+)", line):
                self.flight = found[1]
            elif found := re.match(r"http +(http://\S+)", line):
                self.http = found[1]
            if self.flight and self.http:
                self._changed.set()
        self._changed.set()  # it has ended

    def words(self) -> str:
        return "\n".join(self.said[-20:])

    def stop(self) -> int:
        """Asks the server to end and waits for it; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._listener.join()
        return self.process.returncode

    def __exit__(self, *_: Any) -> None:
        self.stop()


# The project and its right answers.


def is_whole(project: Path) -> bool:
    """Whether the example was written to its end: this file is among the last."""
    return (project / "expected" / "with_http" / "counts.csv").exists()


def write_project(starmere: Path, project: Path, orders: int) -> None:
    if project.exists():
        raise Failed(f"`{project}` is there but not whole, as after an interrupted run: remove it, then run again")
    run(starmere, "init", str(project), "--example", "shop", "--size", str(orders))
    # Nobody wants to commit it.
    (project / ".gitignore").write_text("*\n")


def read_csv(path: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, [tuple(row) for row in rows]


def as_text(table: pyarrow.Table) -> tuple[list[str], list[tuple[str, ...]]]:
    """The table as the files of `expected/` are written: nothing for null, everything else as text."""
    def text(value: Any) -> str:
        if isinstance(value, datetime):
            return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")  # strftime does not pad years
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    columns = [[text(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, list(zip(*columns))


def differences(table: pyarrow.Table, path: Path) -> list[str]:
    """What the table and the right answer do not share, whatever the order of rows."""
    header, rows = as_text(table)
    expected_header, expected_rows = read_csv(path)
    if header != expected_header:
        return [f"columns {header}, expected {expected_header}"]
    found, expected = Counter(rows), Counter(expected_rows)
    lines = [f"missing: {row}" for row in (expected - found).elements()]
    return lines + [f"too much: {row}" for row in (found - expected).elements()]


def counted_rows(endpoint: str) -> dict[str, int]:
    """How many rows each table has, by its name in `counts.csv`."""
    union = "\nUNION ALL ".join(f"SELECT '{name}' AS name, count(*) AS n FROM {port}" for name, port in PORTS.items())
    answer = ask(endpoint, union)
    return dict(zip(answer["name"].to_pylist(), answer["n"].to_pylist()))


def expected_rows(folder: Path) -> dict[str, int]:
    _, rows = read_csv(folder / "counts.csv")
    return {name: int(count) for kind, name, count in rows if kind == "rows"}


# Steps.


def run(starmere: Path, *arguments: str) -> None:
    print(f"$ starmere {' '.join(arguments)}", flush=True)
    status = subprocess.run([str(starmere), *arguments], stdin=subprocess.DEVNULL).returncode
    if status != 0:
        raise Failed(f"`starmere {arguments[0]}` ended with status {status}")


class Posted(NamedTuple):
    events: int
    rejected: int
    requests: int


def post_events(http: str, stream: str, path: Path) -> Posted:
    """Posts a file's lines. The key of a request is made from its body, so that a repetition has the same one."""
    lines = path.read_bytes().splitlines(keepends=True)
    events = rejected = requests = 0
    for start in range(0, len(lines), POST_LINES):
        body = b"".join(lines[start:start + POST_LINES])
        answer = post(f"{http}/v1/streams/{stream}/events", body, hashlib.sha256(body).hexdigest())
        events, rejected, requests = events + answer["accepted"], rejected + answer["rejected"], requests + 1
    return Posted(events, rejected, requests)


def post(url: str, body: bytes, key: str) -> dict[str, Any]:
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": key}
    for attempt in range(1, POST_ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503) or attempt == POST_ATTEMPTS:
                raise Failed(f"{url} answered {error.code}: {error.read().decode(errors='replace')}") from error
            time.sleep(float(error.headers.get("Retry-After", "1")))
        except OSError as error:
            raise Failed(f"{url} cannot be reached: {error}") from error
    raise AssertionError("the last attempt returns or raises")


class Clock:
    """Runs steps, and remembers what each took."""

    def __init__(self) -> None:
        self.took: list[tuple[str, float]] = []

    def step(self, name: str, act: Callable[[], Any]) -> Any:
        print(f"\n── {name}", flush=True)
        began = time.perf_counter()
        result = act()
        self.took.append((name, time.perf_counter() - began))
        return result


def demo(starmere: Path, project: Path, orders: int) -> None:
    clock, name = Clock(), str(project)
    again = is_whole(project)
    if not again:
        clock.step("write a shop", lambda: write_project(starmere, project, orders))
    clock.step("land the files", lambda: run(starmere, "ingest", "--project", name, "--once"))
    with contextlib.ExitStack() as stack:
        server = clock.step("start the server", lambda: stack.enter_context(Server(starmere, project)))
        print(f"flight sql  {server.flight}\nhttp        {server.http}")
        posted = clock.step("post orders over HTTP",
                            lambda: post_events(server.http, "orders", project / "events-http" / "orders.jsonl"))
        print(f"{posted.events:,} events in {posted.requests} requests, {posted.rejected} of them unreadable and kept")
        clock.step("build and publish", lambda: run(starmere, "build", "--project", name))
        answer = clock.step("ask, over Flight SQL", lambda: ask(server.flight, STAR_QUERY))
        print(f"{STAR_QUERY.strip()}\n\n{draw(answer.slice(0, SHOWN_ROWS))}")
        print(f"… {answer.num_rows - SHOWN_ROWS} more rows" if answer.num_rows > SHOWN_ROWS else "")
        compare(answer, counted_rows(server.flight), project / "expected" / "with_http")
    if server.process.returncode != 0:
        raise Failed(f"the server ended with status {server.process.returncode}:\n" + server.words())
    show_times(clock)
    show_next(starmere, project, again)


def compare(answer: pyarrow.Table, rows: dict[str, int], expected: Path) -> None:
    path = expected / "revenue_by_segment_month.csv"
    wrong = differences(answer, path)
    right_rows = expected_rows(expected)
    print(f"\n{'rows of':<22}{'found':>10}{'expected':>10}")
    for name, count in rows.items():
        print(f"{name:<22}{count:>10,}{right_rows[name]:>10,}")
    wrong += [f"{name} has {count} rows, expected {right_rows[name]}" for name, count in rows.items()
              if count != right_rows[name]]
    if wrong:
        raise Failed(f"the answer is not the one in `{expected}`:\n  " + "\n  ".join(wrong[:10]))
    print(f"\nThe answer is the one in {path}, which was worked out by other means.")


def show_times(clock: Clock) -> None:
    print("\n── what it took")
    for name, seconds in clock.took:
        print(f"{name:<24}{seconds:8.2f} s")


def show_next(starmere: Path, project: Path, again: bool) -> None:
    if again:
        print("\nAll events had come before: they were sent, landed over HTTP and read again, and no count changed.")
    print(f"\nWhat to try next, with `alias starmere={starmere.resolve()}`:\n")
    for command, purpose in [
        ("make demo", "again: nothing is counted twice"),
        (f"starmere up --project {project}", "all of it, continuously"),
        (f"starmere rejects --project {project}", "what could not be read, and why"),
        (f"starmere verify --project {project}", "nothing lost, nothing doubled, equal to a rebuild"),
        (f"starmere sql --project {project} 'SELECT …'", "ask something else"),
    ]:
        print(f"    {command:<44} {purpose}")
    print(f"\nThen change a definition below {project}/, and run `starmere plan`. To begin anew, remove {project}/.")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("starmere", type=Path, help="the binary, such as target/debug/starmere")
    arguments.add_argument("project", type=Path, help="the folder of the demo; written if it does not exist")
    arguments.add_argument("--orders", type=int, default=10_000, help="size of the shop, when it is written")
    options = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    try:
        demo(options.starmere, options.project, options.orders)
    except (Failed, flight_sql.Error) as error:
        raise SystemExit(f"\nerror: {error}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Malice beside work: `starmere up` takes 1,000 events a second and answers a client every 100 ms, while strangers try
what they can.

    python tests/python/abuse.py target/debug/starmere FOLDER [--seconds 300]

Afterwards: no accepted event is lost or doubled, every question of the client was answered, resident memory stayed
within its limit, and the process that began is the one that ends. Each kind of abuse must have been tried, or the test
fails. How long answers took is printed: the aim is two seconds at most. On a machine that does other work as well, that
says little, so only a question that was as good as not answered fails the test.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).parent))
from till import COUNT, LANDED, Client, Failed, Server, event, resident_mib, write_project  # noqa: E402

RATE = 1000  # events a second
POSTERS = 4
AIM_SECONDS = 2.0  # what an answer should take at most
LATE_SECONDS = 20.0  # what is no answer any more
QUERY_MIB = 512
LIMIT_MIB = 2048  # resident: queries, ingestion, builds, and what the process itself needs
SETTINGS = f"""
queries: {{ memory_mib: {QUERY_MIB}, process_mib: {LIMIT_MIB - 256}, time_seconds: 20 }}
ingest_memory_mib: 128
build_memory_mib: 256
"""

# Each would take gigabytes, or a processor for minutes, if it were let.
GREEDY = [
    "SELECT array_length(array_repeat(1, 1000000000))",
    "SELECT length(lpad('x', 1000000000, 'ab'))",
    "SELECT length(repeat('abc', 1000000000))",
    "SELECT length(string_agg(repeat('x', 1000), '')) FROM generate_series(1, 20000000)",
    "SELECT array_length(array_agg(value)) FROM generate_series(1, 200000000)",
    "SELECT count(*) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b WHERE a.value + b.value < 0",
    "SELECT count(*) FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value % 7 = b.value % 7 WHERE a.value + b.value < 0",
    "SELECT value FROM generate_series(1, 100000000) ORDER BY random() LIMIT 1000000",
    "SELECT " + " + ".join(["value"] * 4000) + " AS n FROM generate_series(1, 10)",
    "WITH " + ", ".join(["t0 AS (SELECT 1 AS a)"] + [f"t{n} AS (SELECT x.a FROM t{n-1} x JOIN t{n-1} y ON x.a = y.a)"
                                                        for n in range(1, 15)]) + " SELECT * FROM t14",
    "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r",
    "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(50000)),
    "SELECT count(DISTINCT (event_id, till)) FROM shop.sales_v1.sales",
    "SELECT array_length(array_concat(" + ", ".join(["array_repeat(1, 2700000)"] * 100) + "))",
    "SELECT " + ", ".join(f"repeat('a', {60_000_000 + n})" for n in range(40)),
    "SELECT v, array_agg(text) FROM (SELECT value % 100 AS v, repeat('x', 3000) || value AS text"
    " FROM generate_series(1, 10000000)) GROUP BY v",
    "SELECT " + ", ".join(f"concat('{n}', value) AS c{n}" for n in range(1600)) + " FROM generate_series(1, 10)",
    "SELECT levenshtein(repeat('ab', 500000), repeat('ba', 500000))",
    "SELECT max(levenshtein(repeat('ab', 2000) || value, repeat('ba', 2000) || value)) FROM generate_series(1, 100000)",
    "SELECT count(*) FROM generate_series(1, 100000) WHERE repeat('x', 10) LIKE '%a' || repeat('_b', 1000) || value || '%'",
    "SELECT max(array_length(array_sort(string_to_array(repeat('b,a,', 2000) || value, ',')))) FROM generate_series(1, 1000000)",
    "SELECT count(l[1]), max(value) FROM (SELECT range(0, 8000000) AS l) CROSS JOIN generate_series(1, 100000) WHERE l[1] < value",
    "SELECT count(x[1]) FROM (SELECT lag(l) OVER (ORDER BY u) AS x FROM"
    " (SELECT unnest(range(0, 1000)) AS u, range(0, 800000) AS l))",
    "SELECT max(upper(t)) FROM (SELECT repeat('x', 60000000) AS t) CROSS JOIN generate_series(1, 100000)",
    "SELECT max(m) FROM (SELECT median(value) OVER (ORDER BY value ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS m"
    " FROM generate_series(1, 1000000))",
]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def send_unfinished(connection: socket.socket, method: str, announced: int, most: int) -> None:
    """Announces a message to a method of Flight and sends a part of it, as far as the server lets it come."""
    path = f"/arrow.flight.protocol.FlightService/{method}".encode()
    headers = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x0f\x10\x10application/grpc"
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, headers))
    windows, sent, received = {0: 65535, 1: 65535}, 0, b""
    while sent < most:
        if size := min(16384, *windows.values()):
            begin = b"\0" + announced.to_bytes(4, "big") if sent == 0 else b""
            connection.sendall(frame(0, 0, 1, begin + bytes(size - len(begin))))
            windows = {stream: window - size for stream, window in windows.items()}
            sent += size
            continue
        more = connection.recv(65536)
        if not more:
            return
        received += more
        while len(received) >= 9 and len(received) >= 9 + (length := int.from_bytes(received[:3], "big")):
            kind, flags, stream = received[3], received[4], int.from_bytes(received[5:9], "big")
            payload, received = received[9:9 + length], received[9 + length:]
            if kind == 8 and stream in windows:  # a larger window
                windows[stream] += int.from_bytes(payload, "big")
            elif kind == 4 and not flags:  # settings, with the window that streams begin with
                settings = {payload[at:at + 2]: payload[at + 2:at + 6] for at in range(0, length, 6)}
                windows[1] += int.from_bytes(settings.get(b"\0\x04", b"\0\0\xff\xff"), "big") - 65535
                connection.sendall(frame(4, 1, 0, b""))
            elif kind in (1, 3, 7):  # answered, reset, or asked to go
                return


class Abuse:
    def __init__(self, server: Server, seconds: float) -> None:
        self.server, self.seconds = server, seconds
        self.at = urllib.parse.urlparse(server.http)
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.accepted: set[int] = set()
        self.sent = 0
        self.refused_posts = 0
        self.answers: list[tuple[float, str]] = []
        self.tried: dict[str, int] = {}
        self.answered: dict[int, int] = {}
        self.failures: list[str] = []
        self.most_mib = 0.0

    # Work.

    def post(self) -> None:
        client, since, due = Client(self.server.http), time.monotonic(), 0.0
        while not self.ended.is_set():
            # What has come since the last post, as a gateway does: an answer takes as long as posts are gathered.
            now = time.monotonic()
            due, since = due + (now - since) * RATE / POSTERS, now
            size, due = int(due), due % 1
            if size == 0:
                self.ended.wait(0.05)
                continue
            with self.lock:
                first = self.sent
                self.sent += size
            numbers = range(first, first + size)
            try:
                status = client.post([event(number) for number in numbers])
            except OSError as error:
                status = 0
                self.failures.append(f"a post failed: {error}")
            if status == 200:
                self.accepted.update(numbers)
            else:
                self.refused_posts += 1
            self.ended.wait(0.05)

    def ask(self) -> None:
        client = Client(self.server.http)
        questions = ["SELECT 1 AS one", "SELECT till, sum(quantity) AS q FROM shop.sales_v1.sales GROUP BY till"]
        number = 0
        while not self.ended.is_set():
            number += 1
            question, began = questions[number % 10 == 0], time.monotonic()
            try:
                client.ask(question)
            except (Failed, OSError) as error:
                self.failures.append(f"`{question}`: {str(error)[:300]}")
            self.answers.append((time.monotonic() - began, question))
            self.ended.wait(max(0.0, 0.1 - (time.monotonic() - began)))

    def watch(self) -> None:
        while not self.ended.is_set():
            if self.server.process.poll() is not None:
                self.failures.append(f"the server died: {self.server.words()}")
                self.ended.set()
                return
            self.most_mib = max(self.most_mib, resident_mib(self.server.process))
            time.sleep(0.02)

    # Abuse.

    def again_and_again(self, name: str, act: Callable[[random.Random], None], seed: int) -> None:
        chance = random.Random(seed)
        while not self.ended.is_set():
            self.tried[name] = self.tried.get(name, 0) + 1
            with contextlib.suppress(OSError, Failed):
                act(chance)
            self.ended.wait(chance.random())

    def connect(self) -> socket.socket:
        return socket.create_connection((self.at.hostname, self.at.port), timeout=30)

    def greedy(self, chance: random.Random) -> None:
        """Asks for too much, and waits for the answer or hangs up."""
        sql = chance.choice(GREEDY)
        client = Client(self.server.http, patience=chance.choice([0.5, 2, 40]))
        with contextlib.closing(client):
            status, _ = client.request("POST", "/v1/sql", json.dumps({"sql": sql}).encode())
            self.answered[status] = self.answered.get(status, 0) + 1

    def unread(self, chance: random.Random) -> None:
        """Asks for a large answer, and does not read it."""
        body = json.dumps({"sql": "SELECT repeat('x', 100) AS x FROM generate_series(1, 3000000)"}).encode()
        with self.connect() as connection:
            connection.sendall(b"POST /v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self.ended.wait(chance.uniform(1, 10))

    def stalled(self, chance: random.Random) -> None:
        """Announces 64 MiB of events and sends nothing, or a little now and then."""
        with self.connect() as connection:
            connection.sendall(b"POST /v1/streams/sales/events HTTP/1.1\r\nHost: localhost\r\n"
                               b"Content-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
            for _ in range(chance.randrange(20)):
                if self.ended.wait(1):
                    return
                if chance.random() < 0.5:
                    connection.sendall(b"{")

    def crowd(self, chance: random.Random) -> None:
        """Opens connections and says little."""
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                connection = stack.enter_context(self.connect())
                connection.sendall(chance.choice([b"", b"GET / HT", b"POST /v1/sql HTTP/1.1\r\nX: "]))
            self.ended.wait(chance.uniform(1, 5))

    def page(self, chance: random.Random) -> None:
        """A page in a browser posts across origins; a name that leads here, by rebinding."""
        client = Client(self.server.http)
        with contextlib.closing(client):
            if chance.random() < 0.5:
                headers = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
                status, _ = client.request("POST", "/v1/streams/sales/events", b'{"id":"page"}', "text/plain", headers)
            else:
                status, _ = client.request("POST", "/v1/sql", b"SELECT 1", "text/plain", {"Host": "rebound.example"})
            if status < 400:
                self.failures.append(f"a foreign page was answered {status}")

    def noise(self, chance: random.Random) -> None:
        """Bytes that are no protocol, to both listeners."""
        port = chance.choice([self.at.port, urllib.parse.urlparse(self.server.flight).port])
        with socket.create_connection((self.at.hostname, port), timeout=5) as connection:
            start = chance.choice([b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /v1/sql HTTP/1.1\r\n"])
            connection.sendall(start + chance.randbytes(chance.randrange(1, 5000)))
            self.ended.wait(0.2)

    def flight(self, chance: random.Random) -> None:
        """Prepares statements with large parameters, and forgets them; asks for answers and reads none."""
        import adbc_driver_flightsql.dbapi as flight_sql
        import pyarrow

        with contextlib.suppress(flight_sql.Error):
            with flight_sql.connect(self.server.flight, autocommit=True) as connection:
                cursor = connection.cursor()
                if chance.random() < 0.5:
                    cursor.adbc_prepare("SELECT ? AS x")
                    cursor.adbc_statement.bind(pyarrow.record_batch({"x": ["x" * 7_000_000]}))
                    cursor.adbc_statement.execute_query()
                else:
                    cursor.execute("SELECT repeat('x', 100) AS x FROM generate_series(1, 3000000)")
                    self.ended.wait(chance.uniform(0, 5))

    def unfinished(self, chance: random.Random) -> None:
        """Sends 15 of 16 MiB of a message over each of many connections of Flight, and then waits."""
        method = chance.choice(["DoPut", "DoPut", "DoGet", "GetFlightInfo", "Handshake"])
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                if self.ended.is_set():
                    return
                at = urllib.parse.urlparse(self.server.flight)
                connection = stack.enter_context(socket.create_connection((at.hostname, at.port), timeout=5))
                with contextlib.suppress(OSError):
                    send_unfinished(connection, method, 16 << 20, 15 << 20)
            self.ended.wait(chance.uniform(1, 10))

    def run(self) -> None:
        threads = [threading.Thread(target=self.post) for _ in range(POSTERS)]
        threads += [threading.Thread(target=self.ask), threading.Thread(target=self.watch)]
        kinds = [(self.greedy, 4), (self.unread, 3), (self.stalled, 10), (self.crowd, 2), (self.page, 1), (self.noise, 1),
                 (self.flight, 2), (self.unfinished, 3)]
        for act, times in kinds:
            threads += [threading.Thread(target=self.again_and_again, args=(act.__name__, act, seed))
                        for seed in range(times)]
        for thread in threads:
            thread.start()
        self.ended.wait(self.seconds)
        self.ended.set()
        for thread in threads:
            thread.join(60)
        if missing := [act.__name__ for act, _ in kinds if not self.tried.get(act.__name__)]:
            self.failures.append(f"not tried: {', '.join(missing)}")

    def judge(self) -> list[tuple[str, str]]:
        """Each point, and what is wrong with it."""
        client = Client(self.server.http)
        until, found = time.monotonic() + 120, {}
        while time.monotonic() < until:
            found = client.ask(LANDED)[0]
            if client.ask(COUNT)[0]["n"] == found["ids"]:
                break
            time.sleep(0.5)
        ids = {row["event_id"] for row in client.ask("SELECT event_id FROM shop.sales_v1.sales")}
        lost = [number for number in self.accepted if f"e{number}" not in ids]
        answers = sorted(self.answers)
        seconds, question = answers[-1] if answers else (0.0, "nothing")
        usual, rare = (answers[int(len(answers) * part)][0] if answers else 0.0 for part in (0.5, 0.99))
        late = sum(took > AIM_SECONDS for took, _ in answers)
        expected = self.seconds * RATE * 0.9
        points = [
            ("the process lives, and answers", "; ".join(self.failures[:3])),
            ("no accepted event is lost", f"{len(lost)} are, such as e{lost[0]}" if lost else ""),
            ("each event counts once", "" if found["ids"] == len(ids) else f"{len(ids)} in the star, landed {found}"),
            ("events were accepted", "" if len(self.accepted) >= expected else
             f"{len(self.accepted)} were, {self.refused_posts} posts refused; at least {expected:.0f} are expected"),
            ("every question is answered", "" if answers and seconds <= LATE_SECONDS else
             f"{len(answers)} were; one took {seconds:.1f} s: {question}"),
            ("memory keeps to its limit", "" if self.most_mib <= LIMIT_MIB else f"{self.most_mib:.0f} MiB resident"),
        ]
        print(f"{len(self.accepted)} events accepted, {self.refused_posts} posts refused; {len(answers)} answers: "
              f"median {usual:.2f} s, 99th percentile {rare:.2f} s, most {seconds:.2f} s, {late} above {AIM_SECONDS:.0f} s; "
              f"{self.most_mib:.0f} MiB; tried {self.tried}; greedy queries "
              f"answered {self.answered}", flush=True)
        return points


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("starmere", type=Path)
    arguments.add_argument("project", type=Path, help="a new folder")
    arguments.add_argument("--seconds", type=float, default=300)
    options = arguments.parse_args()
    write_project(options.starmere.resolve(), options.project, SETTINGS)
    with Server(options.starmere.resolve(), options.project.resolve(), "up") as server:
        abuse = Abuse(server, options.seconds)
        abuse.run()
        points = abuse.judge()
    failed = 0
    for point, wrong in points:
        print(f"{'ok    ' if not wrong else 'FAILED'} {point}{': ' + wrong if wrong else ''}", flush=True)
        failed += bool(wrong)
    print(f"{len(points) - failed} passed, {failed} failed")
    sys.stdout.flush()
    os._exit(1 if failed else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure landing: how fast, in how much memory, how soon it is seen.

    python landing.py target/release/starmere /tmp/bench                       # everything
    python landing.py target/release/starmere /tmp/bench --steps json          # one step

Steps:

    json        1 GB of newline-delimited JSON, nested, about 1 KB an event      beside DuckDB, ClickHouse and polars
    kafka       a topic of the same events, from a broker of one machine         beside a consumer that discards them
    freshness   events posted over HTTP until a query on `lake.*` returns them, at 1,000 and 10,000 events/s
    memory      10 GB from files, and 10 GB from Kafka: the peak (the files are removed afterwards)

Every side has the same two cores, starts with nothing, and writes Parquet with zstd level 1. `json` is measured with
the input in the page cache, and with the input on the disk only. The peer consumer is librdkafka's, from Python, a list of
10,000 at a time. Results are kept in bench/results/landing.json, with what stays unequal; `report.py` prints them.
"""

import argparse
import contextlib
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import adbc_driver_flightsql.dbapi as flight_sql

import landing_events
from keeping import RESULTS, keep
from measuring import HERE, REPEATS, Cost, Failed, folder_mb, in_rounds, measure, peak_mb, pin, progress, rounded

sys.path.append(str(HERE.parent / "tests" / "python"))
from broker import kafka_broker  # noqa: E402

STEPS = ("json", "kafka", "freshness", "memory")
MEGABYTES, MANY_MEGABYTES = 1_000, 10_000
RATES, PROBED_SECONDS, CLIENTS = (1_000, 10_000), 10.0, 64
#: Of ingestion, by default.
BUDGET_MIB = 512
STREAM = """\
domain: sales
stream: orders
envelope: { id: id, type: type, time: occurred_at, version: version, subject: customer.id }
events:
  order_placed: { versions: { 1: { fields: { total_cents: { path: total_cents, type: bigint } } } } }
"""


class Bench(NamedTuple):
    starmere: Path
    work: Path
    repeats: int

    def project(self, name: str, source: str) -> Path:
        """A project with an empty warehouse."""
        folder = self.work / f"landing-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "streams").mkdir(parents=True)
        (folder / "streams" / "orders.yaml").write_text(STREAM)
        listeners = "listeners: { http: 127.0.0.1:0, flight: 127.0.0.1:0 }\n"
        (folder / "starmere.yaml").write_text(f"project: bench\nwarehouse: ./warehouse\n{listeners}{source}")
        return folder

    def land(self, project: Path) -> Cost:
        return measure([str(self.starmere), "ingest", "--once", "--project", str(project)], self.work / "landing.log")

    def peer(self, *arguments: Any) -> Cost:
        script = [sys.executable, str(HERE / "landing_peers.py"), *map(str, arguments)]
        return measure(script, self.work / f"landing-{arguments[0]}.log")

    def events(self, megabytes: int) -> tuple[Path, int, int]:
        """A folder, the number of its events, and of their bytes."""
        folder = self.work / f"landing-events-{megabytes}"
        files = landing_events.generate(megabytes, folder)
        in_one = sum(1 for _ in files[0].open("rb"))
        return folder, in_one * len(files), sum(file.stat().st_size for file in files)


# Steps. Each returns what is to be kept in the results.

PEERS = ("DuckDB", "ClickHouse", "polars")
JSON_SETTINGS = {
    "Starmere": "`ingest --once`, as it is shipped; zstd level 1",
    "DuckDB": "one COPY with from_json; zstd level 1, preserve_insertion_order = false",
    "ClickHouse": "chdb, one SELECT INTO OUTFILE with JSONExtract; zstd level 1",
    "polars": "scan_lines, json_decode, sink_parquet on the streaming engine; zstd level 1, maintain_order = False",
}
JSON_UNEQUAL = [
    "Against Starmere: it syncs what it commits, digests every event, keeps positions and statistics, and can be killed; "
    "the peers write one file and promise nothing.",
    "Against the peers: each starts Python or a whole database in its time, some 0.1 to 0.5 s, and the memory of it "
    "(some 60 MB) is in its peak.",
]


def of_json(bench: Bench) -> dict:
    folder, events, size = bench.events(MEGABYTES)
    made = {name: bench.work / f"landing-{name.lower()}.parquet" for name in PEERS}

    def ours() -> Cost:
        return bench.land(bench.project("json", f"sources:\n  files: {{ stream: orders, files: {folder} }}\n"))

    def peer(name: str) -> Callable[[], Cost]:
        return lambda: bench.peer(name.lower(), folder, made[name])

    costs = in_rounds("json", {"Starmere": ours, **{name: peer(name) for name in PEERS}}, lambda _: [folder], bench.repeats)
    sizes = {"Starmere": folder_mb(bench.work / "landing-json" / "warehouse")}
    for name, path in made.items():
        sizes[name] = path.stat().st_size / 1e6
        path.unlink()
    return {"events": events, "bytes": size, "settings": JSON_SETTINGS, "unequal": JSON_UNEQUAL, **costs,
            "on_disk_mb": rounded(sizes)}


def from_kafka(bench: Bench, megabytes: int, with_peer: bool) -> tuple[dict, int, int]:
    """Costs of Starmere, and of a consumer; events and bytes."""
    folder, events, size = bench.events(megabytes)
    with kafka_broker() as broker:
        bench.peer("producer", broker, "orders", folder)

        def theirs() -> Cost:
            cost = bench.peer("consumer", broker, "orders")
            read = int((bench.work / "landing-consumer.log").read_text().split()[-1])
            if read != events:
                raise Failed(f"the consumer has read {read:,} of {events:,} events")
            return cost

        def ours() -> Cost:
            source = f"sources:\n  topics: {{ stream: orders, kafka: {{ brokers: \"{broker}\", topics: [orders] }} }}\n"
            project = bench.project("kafka", source)
            cost = bench.land(project)
            # Where the log ends, the broker says a little late: what it had kept back is landed by the next runs.
            if (landed := rows(bench, project)) < events * 0.99:
                raise Failed(f"{landed:,} of {events:,} events have landed from Kafka")
            for _ in range(5):
                if rows(bench, project) < events:
                    bench.land(project)
            if (landed := rows(bench, project)) != events:
                raise Failed(f"{landed:,} of {events:,} events have landed from Kafka")
            return cost

        sides = {"Starmere": ours, "consumer": theirs} if with_peer else {"Starmere": ours}
        costs = in_rounds(f"kafka, {megabytes / 1000:g} GB", sides, lambda _: [], bench.repeats, ["warm"])
    return costs["warm"], events, size


def of_kafka(bench: Bench) -> dict:
    costs, events, size = from_kafka(bench, MEGABYTES, with_peer=True)
    return {"events": events, "bytes": size, "partitions": 4,
            "settings": {"Starmere": "`ingest --once`, all partitions to their ends; zstd level 1",
                         "consumer": "confluent-kafka, assigned to all partitions, 10,000 messages a call, defaults otherwise"},
            "unequal": ["For the consumer: it writes nothing, and reads no payload. It is a lower bound, not a peer.",
                        "The broker's own work is in nobody's figures, but it has the same two cores."],
            "warm": costs}


def of_memory(bench: Bench) -> dict:
    folder, events, size = bench.events(MANY_MEGABYTES)

    def files() -> Cost:
        project = bench.project("memory", f"sources:\n  files: {{ stream: orders, files: {folder} }}\n")
        cost = bench.land(project)
        if (landed := rows(bench, project)) != events:
            raise Failed(f"{landed:,} of {events:,} events have landed from files")
        shutil.rmtree(project)
        return cost

    found = in_rounds("memory, files", {"files": files}, lambda _: [], bench.repeats, ["warm"])["warm"]
    kafka, _, _ = from_kafka(bench, MANY_MEGABYTES, with_peer=False)
    shutil.rmtree(folder)
    return {"events": events, "bytes": size, "budget_mib": BUDGET_MIB, "warm": {**found, "Kafka": kafka["Starmere"]},
            "unequal": ["No peer. Files are read as the page cache has them: 10 GB may be in it, or not."]}


def rows(bench: Bench, project: Path) -> int:
    status = subprocess.run([str(bench.starmere), "sql", "SELECT count(*) AS n FROM lake.sales.orders", "--format", "json",
                             "--project", str(project)], capture_output=True, text=True, check=True)
    return json.loads(status.stdout.splitlines()[0] if status.stdout.startswith("{") else status.stdout.strip("[]\n "))["n"]


# Freshness.


def of_freshness(bench: Bench) -> dict:
    found: dict[str, list[dict]] = {}
    for rate in RATES:
        found[str(rate)] = []
        for number in range(bench.repeats):
            project = bench.project("freshness", "")
            with serving(bench, project) as (http_at, flight_at, process):
                one = freshness(http_at, flight_at, rate)
                one["server_peak_mb"] = peak_mb(process)
            found[str(rate)].append(rounded(one))
            progress(f"freshness, {rate:,} events/s, round {number + 1} of {bench.repeats}: median {one['median_ms']:.0f} ms")
    return {"rates": found, "clients": CLIENTS, "settings": {"Starmere": "`up`; posts are gathered for 250 ms, the default"},
            "unequal": ["No peer. Clients, which are threads of one Python process, have the same two cores as the server."]}


@contextlib.contextmanager
def serving(bench: Bench, project: Path) -> Iterator[tuple[str, str, int]]:
    log = (bench.work / "landing-up.log").open("w+")
    process = subprocess.Popen([str(bench.starmere), "up", "--project", str(project)], stdout=log, stderr=log)
    try:
        for _ in range(200):
            log.seek(0)
            said = dict(line.split("://")[::-1] for line in log.read().split() if "://" in line)
            where = {kind: address for address, kind in said.items()}
            if len(where) == 2:
                break
            time.sleep(0.1)
        else:
            raise Failed("`starmere up` did not say where it listens")
        yield where["http"], where["grpc"], process.pid
    finally:
        process.terminate()
        process.wait()
        log.close()


def freshness(http_at: str, flight_at: str, rate: int) -> dict:
    """Posts for a while from many clients, each twice a second, and asks for what is new all the time."""
    clients, together = CLIENTS, rate // (2 * CLIENTS)
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    over = threading.Event()
    began = time.perf_counter() + 1.0

    def post(client: int) -> None:
        connection = http.client.HTTPConnection(http_at)
        pause = clients * together / rate
        for number in range(int(PROBED_SECONDS / pause)):
            due = began + number * pause + client * pause / clients
            time.sleep(max(0.0, due - time.perf_counter()))
            ids = [f"{client}-{number}-{n}" for n in range(together)]
            now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
            body = "".join(f'{{"id":"{id}","type":"order_placed","version":1,"occurred_at":"{now}","customer":{{"id":"c"}},'
                           f'"note":"{"x" * 800}"}}\n' for id in ids)
            at = time.perf_counter()
            sent.update((id, at) for id in ids)
            connection.request("POST", "/v1/streams/orders/events", body)
            answer = connection.getresponse()
            if answer.status != 200:
                raise Failed(f"a post was answered {answer.status}: {answer.read()}")
            answer.read()

    asked = 0
    failures: list[BaseException] = []

    def ask() -> None:
        nonlocal asked
        after = -1
        with flight_sql.connect(f"grpc://{flight_at}", autocommit=True) as connection, connection.cursor() as cursor:
            while not over.is_set() or len(seen) < len(sent):
                if over.is_set() and time.perf_counter() > began + PROBED_SECONDS + 30:
                    return
                try:
                    cursor.execute(f"SELECT event_id, position FROM lake.sales.orders WHERE position > {after}")
                    answer = cursor.fetch_arrow_table()
                except Exception as error:
                    if "orders" in str(error) and not seen:
                        time.sleep(0.05)
                        continue
                    raise
                at = time.perf_counter()
                asked += 1
                for id in answer["event_id"].to_pylist():
                    seen[id] = at
                after = max(answer["position"].to_pylist(), default=after)

    def guarded(work: Callable, *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                failures.append(error)
        thread = threading.Thread(target=run)
        thread.start()
        return thread

    asking = guarded(ask)
    posting = [guarded(post, client) for client in range(clients)]
    for thread in posting:
        thread.join()
    posted = time.perf_counter()
    over.set()
    asking.join()
    if failures:
        raise failures[0]
    if missing := len(sent) - len(seen):
        raise Failed(f"{missing} of {len(sent)} events were posted and never seen")
    took = sorted((seen[id] - at) * 1000 for id, at in sent.items())
    return {"rate": len(sent) / (posted - began), "events": len(sent), "median_ms": statistics.median(took),
            "p99_ms": took[int(len(took) * 0.99)], "worst_ms": took[-1], "queries_per_s": asked / (posted - began)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("starmere", type=Path, help="the binary, such as target/release/starmere")
    arguments.add_argument("work_dir", type=Path, help="folder for data, warehouses and logs; 15 GB for all steps")
    arguments.add_argument("--steps", default=",".join(STEPS), help="which steps, with commas between them")
    arguments.add_argument("--repeats", type=int, default=REPEATS, help="how many runs each figure is the median of")
    arguments.add_argument("--results", type=Path, default=RESULTS / "landing.json", help="file to keep them in")
    options = arguments.parse_args()
    steps = options.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        arguments.error(f"unknown step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    pin()
    bench = Bench(options.starmere.resolve(), options.work_dir.resolve(), options.repeats)
    bench.work.mkdir(parents=True, exist_ok=True)
    of = {"json": of_json, "kafka": of_kafka, "freshness": of_freshness, "memory": of_memory}
    for step in steps:
        try:
            keep(options.results, bench.starmere, {step: of[step](bench)})
        except Failed as failure:
            raise SystemExit(f"error: {step}: {failure}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure landing: how fast, in how much memory, how soon it is seen.

    python landing.py target/release/starmere /tmp/bench                       # everything
    python landing.py target/release/starmere /tmp/bench --steps json          # one step

Steps:

    json        1 GB of newline-delimited JSON, nested, about 1 KB an event      beside DuckDB and ClickHouse
    kafka       a topic of the same events, from a broker of one machine         beside a consumer that discards them
    freshness   events posted over HTTP until a query on `lake.*` returns them, at 1,000 and 10,000 events/s
    memory      10 GB from files, and 10 GB from Kafka: the peak (the files are removed afterwards)

Every side uses two threads, starts with nothing, and finds its input in the page cache. Starmere syncs what it commits;
the others do not. The peer consumer is librdkafka's, from Python, a list of 10,000 at a time; the broker's own work is in
nobody's figures, but it runs on the same processors. Results are printed as Markdown and kept in
bench/results/landing.json.
"""

import argparse
import contextlib
import http.client
import json
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import adbc_driver_flightsql.dbapi as flight_sql

import landing_events
from bench import Cost, Failed, folder_mb, measure, peak_mb, read_once, table

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests" / "python"))
from broker import kafka_broker  # noqa: E402

STEPS = ("json", "kafka", "freshness", "memory")
MEGABYTES, MANY_MEGABYTES = 1_000, 10_000
RATES, PROBED_SECONDS = (1_000, 10_000), 10.0
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


# Steps. Each returns what is to be kept in the results, and prints its table.


def rates(costs: dict[str, Cost], events: int, size: int) -> list[list[str]]:
    ours = costs["Starmere"]
    return [[name, f"{cost.seconds:.2f} s", f"{events / cost.seconds:,.0f}", f"{size / cost.seconds / 1e6:,.0f}",
             f"{cost.cpu_seconds:.1f} s", f"{cost.peak_mb:,.0f} MB", f"{ours.seconds / cost.seconds:.2f}",
             f"{ours.cpu_seconds / cost.cpu_seconds:.2f}"] for name, cost in costs.items()]


HEADER = ["", "time", "events/s", "MB/s", "CPU", "peak memory", "Starmere's time by its", "CPU by its"]


def of_json(bench: Bench) -> dict:
    folder, events, size = bench.events(MEGABYTES)
    read_once(folder)
    project = bench.project("json", f"sources:\n  files: {{ stream: orders, files: {folder} }}\n")
    costs = {"Starmere": bench.land(project)}
    for name in ("DuckDB", "ClickHouse"):
        costs[name] = bench.peer(name.lower(), folder, bench.work / f"landing-{name.lower()}.parquet")
    table(f"Landing {events:,} events of {size / 1e6:,.0f} MB, newline-delimited JSON", HEADER, rates(costs, events, size))
    sizes = {"Starmere": folder_mb(project / "warehouse")}
    for name in ("DuckDB", "ClickHouse"):
        made = bench.work / f"landing-{name.lower()}.parquet"
        sizes[name] = made.stat().st_size / 1e6
        made.unlink()
    print("\nOn disk: " + ", ".join(f"{name} {size:,.0f} MB" for name, size in sizes.items()) + ".")
    return {"events": events, "bytes": size, **{name: cost._asdict() for name, cost in costs.items()}, "on_disk_mb": sizes}


def from_kafka(bench: Bench, megabytes: int) -> tuple[Cost, Cost, int, int]:
    """What Starmere and a consumer take; events and bytes."""
    folder, events, size = bench.events(megabytes)
    with kafka_broker() as broker:
        bench.peer("producer", broker, "orders", folder)
        theirs = bench.peer("consumer", broker, "orders")
        read = int((bench.work / "landing-consumer.log").read_text().split()[-1])
        if read != events:
            raise Failed(f"the consumer has read {read:,} of {events:,} events")
        source = f"sources:\n  topics: {{ stream: orders, kafka: {{ brokers: \"{broker}\", topics: [orders] }} }}\n"
        project = bench.project("kafka", source)
        ours = bench.land(project)
        # Where the log ends, the broker says a little late: what it had kept back is landed by the next runs.
        if (landed := rows(bench, project)) < events * 0.99:
            raise Failed(f"{landed:,} of {events:,} events have landed from Kafka")
        for _ in range(5):
            if rows(bench, project) < events:
                bench.land(project)
    if (landed := rows(bench, project)) != events:
        raise Failed(f"{landed:,} of {events:,} events have landed from Kafka")
    return ours, theirs, events, size


def of_kafka(bench: Bench) -> dict:
    ours, theirs, events, size = from_kafka(bench, MEGABYTES)
    costs = {"Starmere": ours, "consumer": theirs}
    table(f"From Kafka: {events:,} events of {size / 1e6:,.0f} MB, 4 partitions", HEADER, rates(costs, events, size))
    return {"events": events, "bytes": size, **{name: cost._asdict() for name, cost in costs.items()}}


def of_memory(bench: Bench) -> dict:
    folder, events, size = bench.events(MANY_MEGABYTES)
    project = bench.project("memory", f"sources:\n  files: {{ stream: orders, files: {folder} }}\n")
    files = bench.land(project)
    if (landed := rows(bench, project)) != events:
        raise Failed(f"{landed:,} of {events:,} events have landed from files")
    shutil.rmtree(project)
    kafka, _, _, _ = from_kafka(bench, MANY_MEGABYTES)
    shutil.rmtree(folder)
    table(f"Memory: {events:,} events of {size / 1e6:,.0f} MB, with a budget of 512 MiB",
          ["", "time", "MB/s", "CPU", "peak memory", "above the budget"],
          [[name, f"{cost.seconds:.1f} s", f"{size / cost.seconds / 1e6:,.0f}", f"{cost.cpu_seconds:.1f} s",
            f"{cost.peak_mb:,.0f} MiB", f"{cost.peak_mb - 512:+,.0f} MiB"]
           for name, cost in (("files", files), ("Kafka", kafka))])
    return {"events": events, "bytes": size, "files": files._asdict(), "kafka": kafka._asdict()}


def rows(bench: Bench, project: Path) -> int:
    status = subprocess.run([str(bench.starmere), "sql", "SELECT count(*) AS n FROM lake.sales.orders", "--format", "json",
                             "--project", str(project)], capture_output=True, text=True, check=True)
    return json.loads(status.stdout.splitlines()[0] if status.stdout.startswith("{") else status.stdout.strip("[]\n "))["n"]


# Freshness.


def of_freshness(bench: Bench) -> dict:
    found = {}
    for rate in RATES:
        project = bench.project("freshness", "")
        with serving(bench, project) as (http_at, flight_at, process):
            found[rate] = freshness(http_at, flight_at, rate)
            found[rate]["server_peak_mb"] = peak_mb(process)
    table("Freshness: from a post's first byte to the row in a query's answer",
          ["events/s", "asked for", "median", "p99", "worst", "events", "queries/s"],
          [[f"{of['rate']:,.0f}", f"{rate:,}", f"{of['median_ms']:,.0f} ms", f"{of['p99_ms']:,.0f} ms",
            f"{of['worst_ms']:,.0f} ms", f"{of['events']:,}", f"{of['queries_per_s']:.0f}"] for rate, of in found.items()])
    return {str(rate): of for rate, of in found.items()}


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
    """Posts for a while from a few clients, 10 or 50 events a request, and asks for what is new all the time."""
    clients, together = 10, max(10, rate // 200)
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


def keep(path: Path, bench: Bench, measured: dict[str, dict]) -> None:
    """Results of other steps stay; each step says when it was measured, and of which version."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    version = subprocess.run([str(bench.starmere), "--version"], capture_output=True, text=True).stdout.strip()
    stamp = {"measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "starmere": version}
    kept |= {"machine": {"system": platform.platform(), "processors": os.cpu_count()}}
    kept |= {step: {"measured": stamp, **result} for step, result in measured.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2) + "\n")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("starmere", type=Path, help="the binary, such as target/release/starmere")
    arguments.add_argument("work_dir", type=Path, help="folder for data, warehouses and logs; 15 GB for all steps")
    arguments.add_argument("--steps", default=",".join(STEPS), help="which steps, with commas between them")
    arguments.add_argument("--results", type=Path, default=HERE / "results" / "landing.json", help="file to keep them in")
    options = arguments.parse_args()
    steps = options.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        arguments.error(f"unknown step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    bench = Bench(options.starmere.resolve(), options.work_dir.resolve())
    bench.work.mkdir(parents=True, exist_ok=True)
    of = {"json": of_json, "kafka": of_kafka, "freshness": of_freshness, "memory": of_memory}
    measured: dict[str, Any] = {}
    try:
        for step in steps:
            measured[step] = of[step](bench)
    except Failed as failure:
        raise SystemExit(f"error: {failure}")
    finally:
        keep(options.results, bench, measured)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure queries a second with 32 clients, beside DuckDB in process on the same machine and data.

    python clients.py target/release/starmere /tmp/bench      # the folder of ssb.py, whose steps land and build have run

The clients are threads of one process. Each has a connection of its own and asks the thirteen queries of the Star Schema
Benchmark, in an order of its own and with literals of its own: 416 queries a round, the same ones on all sides. So the
clients' work (asking, reading the answer as Arrow) is alike, and is done on the same two cores as the engine's:

    Starmere, Flight    a server, over Flight SQL with ADBC
    Starmere, HTTP      the same server, POST /v1/sql, answers as Arrow
    DuckDB, Parquet     in the clients' process, over Parquet files of the plain star
    DuckDB, own tables  in the clients' process

Before a round, each of the thirteen queries is asked. The sums of the answers must be equal. Results are kept in
bench/results/clients.json; `report.py` prints them.
"""

import argparse
import contextlib
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable

import pyarrow
import pyarrow.compute

import ssb_generate
import ssb_queries
from askers import TABLES, duckdb_connection
from keeping import RESULTS, keep
from measuring import REPEATS, Failed, peak_mb, pin, progress, read_once, rounded
from ssb import Bench, make_tables, restore, serving

CLIENTS = 32
SETTINGS = {
    "Starmere, Flight": "`serve`, Flight SQL with ADBC, a connection a client; models in LZ4_RAW",
    "Starmere, HTTP": "the same, POST /v1/sql?format=arrow, a connection a client",
    "DuckDB, Parquet": "a cursor a client; LZ4_RAW, row groups of 122,880 rows, parquet_metadata_cache = true",
    "DuckDB, own tables": "a cursor a client; its own storage",
}
UNEQUAL = [
    "Against Starmere: another process answers, over a socket, on the cores that the clients have too; and it joins on hashed "
    "64-bit keys, DuckDB on the benchmark's dense 32-bit ones.",
    "The clients are Python: what they take of the two cores is in all sides' figures.",
]
Ask = Callable[[str], pyarrow.Table]


# The clients' process.


def flight(address: str) -> Callable[[], Ask]:
    import adbc_driver_flightsql.dbapi as flight_sql

    def connect() -> Ask:
        cursor = flight_sql.connect(address, autocommit=True).cursor()

        def ask(sql: str) -> pyarrow.Table:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()
        return ask
    return connect


def over_http(address: str) -> Callable[[], Ask]:
    def connect() -> Ask:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=600)

        def ask(sql: str) -> pyarrow.Table:
            connection.request("POST", "/v1/sql?format=arrow", sql, {"Content-Type": "application/sql"})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise Failed(f"HTTP {answer.status}: {said.decode(errors='replace')[:500]}")
            return pyarrow.ipc.open_stream(said).read_all()
        return ask
    return connect


def duckdb_parquet(folder: str) -> Callable[[], Ask]:
    shared = duckdb_connection(":memory:")
    for name in TABLES:
        shared.execute(f"""CREATE VIEW "{name}" AS FROM read_parquet('{folder}/{name}.parquet')""")
    return cursors(shared)


def duckdb_tables(path: str) -> Callable[[], Ask]:
    return cursors(duckdb_connection(path, access_mode="READ_ONLY"))


def cursors(shared) -> Callable[[], Ask]:
    def connect() -> Ask:
        cursor = shared.cursor()
        return lambda sql: cursor.sql(sql).to_arrow_table()
    return connect


SIDES = {"Starmere, Flight": flight, "Starmere, HTTP": over_http, "DuckDB, Parquet": duckdb_parquet,
         "DuckDB, own tables": duckdb_tables}


def asked_of(side: str, number: int) -> list[str]:
    """The texts of a client, in its order."""
    form = ssb_queries.STARMERE if side.startswith("Starmere") else ssb_queries.DUCKDB
    texts = list(ssb_queries.queries(form, ssb_queries.literals(number)).values())
    random.Random(number).shuffle(texts)
    return texts


def all_ask(side: str, where: str, clients: int, round_number: int) -> dict:
    """Queries a second, and how long they took."""
    connect = SIDES[side](where)
    ready, failures = threading.Barrier(clients + 1), []
    took: list[float] = []
    sums: list[int] = []

    def client(number: int) -> None:
        try:
            ask, texts = connect(), asked_of(side, round_number * clients + number + 1)
            # Not measured: the thirteen queries are each asked by some clients, which opens the tables.
            ask(asked_of(side, 0)[number % len(texts)])
            ready.wait()
            for sql in texts:
                began = time.perf_counter()
                answer = ask(sql)
                took.append(time.perf_counter() - began)
                measure = "profit" if "profit" in answer.column_names else "revenue"
                sums.append(pyarrow.compute.sum(answer[measure]).as_py() or 0)
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0])
    took.sort()
    return {"queries": len(took), "queries_per_s": len(took) / seconds, "median_ms": statistics.median(took) * 1000,
            "p99_ms": took[int(len(took) * 0.99)] * 1000, "worst_ms": took[-1] * 1000, "sum": sum(sums)}


# The benchmark.


def one_round(bench: Bench, side: str, where: dict[str, Path], clients: int, number: int) -> dict:
    with contextlib.ExitStack() as stack:
        if side.startswith("Starmere"):
            server = stack.enter_context(serving(bench))
            read_once(bench.warehouse / "models")
            place = server.flight if side == "Starmere, Flight" else server.http
        else:
            place = where["duckdb-parquet" if side == "DuckDB, Parquet" else "duckdb-tables"]
            read_once(place)
        command = [sys.executable, __file__, str(bench.starmere), str(bench.work), "--clients", str(clients),
                   "--side", side, str(place), str(number)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{side}: {done.stderr[-3000:]}")
        found = json.loads(done.stdout)
        if side.startswith("Starmere"):
            found["server_peak_mb"] = peak_mb(server.process)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("starmere", type=Path, help="the binary, such as target/release/starmere")
    arguments.add_argument("work_dir", type=Path, help="the folder that ssb.py has worked in")
    arguments.add_argument("--scale", type=float, default=1, help="of the Star Schema Benchmark")
    arguments.add_argument("--clients", type=int, default=CLIENTS)
    arguments.add_argument("--repeats", type=int, default=REPEATS, help="how many rounds each figure is the median of")
    arguments.add_argument("--results", type=Path, default=RESULTS / "clients.json", help="file to keep them in")
    arguments.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.side:
        side, where, number = options.side
        print(json.dumps(all_ask(side, where, options.clients, int(number))))
        return
    pin()
    bench = Bench(options.starmere.resolve(), options.work_dir.resolve(), options.scale, options.repeats)
    found: dict[str, list[dict]] = {side: [] for side in SIDES}
    try:
        data = ssb_generate.generate(bench.scale, bench.data)
        restore(bench, "built")
        where = make_tables(bench, ["duckdb-tables"])
        for number in range(bench.repeats):
            for side in list(SIDES)[::-1 if number % 2 else 1]:
                one = rounded(one_round(bench, side, where, options.clients, number))
                found[side].append(one)
                progress(f"clients, round {number + 1} of {bench.repeats}: {side} {one['queries_per_s']:.1f} queries/s")
            if len({found[side][number]["sum"] for side in SIDES}) != 1:
                raise Failed(f"the sums of the answers differ in round {number + 1}")
    except Failed as failure:
        raise SystemExit(f"error: clients: {failure}")
    keep(options.results, bench.starmere, {"clients": {"settings": SETTINGS, "unequal": UNEQUAL, "clients": options.clients,
                                                       "data": data, "warm": found}})


if __name__ == "__main__":
    main()

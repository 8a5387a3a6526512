#!/usr/bin/env python3
"""Measure Starmere on the Star Schema Benchmark, beside DuckDB on the same machine and data.

    python bench.py target/release/starmere /tmp/bench 1                    # everything, at scale factor 1
    python bench.py target/release/starmere /tmp/bench 1 --steps queries    # one step; the others' work is kept

Steps, in this order:

    generate   the data (kept, if it is there already)
    land       `starmere ingest --once`            beside  NDJSON to zstd Parquet with the same columns
    build      `starmere build`, from the lake      beside  hand-written SQL from the landed Parquet to the star
    increment  1% more events: ingest, then build   beside  landing them and appending their lines by hand
    queries    the 13 queries over Flight SQL       beside  DuckDB on the plain Parquet, and on its own tables

`land` starts from an empty warehouse. Both sides use two threads, and files are read once beforehand, so that
neither pays for a cold disk. (Starmere syncs what it has committed to the disk, DuckDB does not; the peak memory of
DuckDB's side includes some 60 MB of Python.) The answers of the queries are compared row by row. Results are printed as Markdown
and kept in bench/results/latest.json. Exit 1 if a step fails or an answer differs.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import adbc_driver_flightsql.dbapi as flight_sql
import duckdb
import pyarrow

import duckdb_side
import ssb_generate
import ssb_queries

HERE = Path(__file__).resolve().parent
STEPS = ("generate", "land", "build", "increment", "queries")
TABLES = ("lineorder", "customer", "supplier", "part", "date")
SERVE_TIMEOUT = 120.0  # seconds until the server must have said where it listens
PROJECT_FILE = """\
project: ssb
warehouse: ./warehouse
sources:
  customer_files: { stream: customers, files: events/customers }
  supplier_files: { stream: suppliers, files: events/suppliers }
  part_files:     { stream: parts,     files: events/parts }
  order_files:    { stream: orders,    files: events/orders }
listeners:
  http: 127.0.0.1:0
  flight: 127.0.0.1:0
"""


class Failed(Exception):
    """A step that could not be measured; the message says why."""


class Cost(NamedTuple):
    """What a process took."""
    seconds: float
    cpu_seconds: float
    peak_mb: float


class Bench(NamedTuple):
    starmere: Path
    work: Path
    scale: float
    repeats: int
    endpoint: str | None

    @property
    def data(self) -> Path:
        return self.work / f"data-{self.scale:g}"

    @property
    def project(self) -> Path:
        return self.work / f"project-{self.scale:g}"

    @property
    def lake(self) -> Path:
        return self.work / f"duckdb-{self.scale:g}" / "lake"

    @property
    def star(self) -> Path:
        return self.work / f"duckdb-{self.scale:g}" / "star"

    def run_starmere(self, *arguments: str) -> Cost:
        return measure([str(self.starmere), *arguments, "--project", str(self.project)], self.log(arguments[0]))

    def run_duckdb(self, *arguments: Any) -> Cost:
        script = [sys.executable, str(HERE / "duckdb_side.py")]
        return measure(script + [str(argument) for argument in arguments], self.log(f"duckdb-{arguments[0]}"))

    def log(self, name: str) -> Path:
        return self.work / f"{name}.log"


def measure(command: list[str], log: Path) -> Cost:
    launcher = [sys.executable, str(HERE / "measure.py"), str(log), *command]
    cost = json.loads(subprocess.run(launcher, stdout=subprocess.PIPE, check=True).stdout)
    status = cost.pop("status")
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise Failed(f"`{' '.join(command)}` ended with {status}:\n{tail}")
    return Cost(**cost)


def peak_mb(process: int) -> float | None:
    """The peak memory of a running process, where the system tells (Linux)."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return None
    return int(found.group(1)) / 1024 if found else None


# Steps. Each returns what is to be kept in the results, and prints its table.


def generate(bench: Bench) -> dict:
    bench.data.mkdir(parents=True, exist_ok=True)
    manifest = ssb_generate.generate(bench.scale, bench.data)
    print(f"\n## Star Schema Benchmark, scale factor {bench.scale:g}\n\n{manifest['events']:,} events of "
          f"{manifest['event_bytes'] / 1e6:,.0f} MB, {manifest['lines']:,} lines; then {manifest['extra_orders']:,} "
          f"more orders with {manifest['extra_lines']:,} lines.")
    return manifest


def land(bench: Bench, manifest: dict) -> dict:
    make_project(bench)
    for folder in (bench.lake, bench.star):
        shutil.rmtree(folder, ignore_errors=True)
    bench.lake.mkdir(parents=True)
    read_once(bench.data / "events")
    ours = bench.run_starmere("ingest", "--once")
    theirs = bench.run_duckdb("land", bench.data / "events", bench.lake)
    sizes = {"starmere": folder_mb(bench.project / "warehouse"), "duckdb": folder_mb(bench.lake)}

    def row(name: str, cost: Cost) -> list[str]:
        return [name, f"{cost.seconds:.2f} s", f"{manifest['events'] / cost.seconds:,.0f}",
                f"{manifest['event_bytes'] / cost.seconds / 1e6:,.0f}", f"{cost.cpu_seconds:.1f} s",
                f"{cost.peak_mb:,.0f} MB", f"{sizes[name.lower()]:,.0f} MB"]

    table("Landing", ["", "time", "events/s", "MB/s", "CPU", "peak memory", "on disk"],
          [row("Starmere", ours), row("DuckDB", theirs)])
    return {"starmere": ours._asdict(), "duckdb": theirs._asdict(), "on_disk_mb": sizes}


def build(bench: Bench, from_scratch: bool) -> dict:
    """`from_scratch`: the events have just been landed, so any build is a full one."""
    if not (bench.project / "warehouse").is_dir():
        raise Failed("nothing is landed: choose the step `land` too")
    ours = bench.run_starmere("build", *([] if from_scratch else ["--full"]))
    theirs = bench.run_duckdb("build", bench.lake, bench.star)
    costs_table("Full build", {"Starmere": ours, "DuckDB": theirs})
    return {"starmere": ours._asdict(), "duckdb": theirs._asdict()}


def increment(bench: Bench, manifest: dict) -> dict:
    added = link_files(bench.data / "increment" / "events", bench.project / "events")
    if not added:
        raise Failed("the increment is landed already: choose the steps `land` and `build` too")
    read_once(bench.data / "increment" / "events")
    ours = {"ingest": bench.run_starmere("ingest", "--once"), "build": bench.run_starmere("build")}
    theirs = bench.run_duckdb("increment", bench.data / "increment" / "events", bench.lake, bench.star)
    costs_table(f"Incremental: {manifest['extra_orders']:,} more orders", {
        "Starmere, ingest": ours["ingest"], "Starmere, build": ours["build"], "DuckDB, both": theirs})
    return {"starmere": {name: cost._asdict() for name, cost in ours.items()}, "duckdb": theirs._asdict()}


def ask_queries(bench: Bench, manifest: dict) -> dict:
    with contextlib.ExitStack() as stack:
        usage: dict = {}
        endpoint = bench.endpoint or stack.enter_context(serving(bench, usage))
        connection = stack.enter_context(flight_sql.connect(endpoint, autocommit=True))
        files = parquet_files(bench, manifest, count_lines(connection))
        sides = {"starmere": over_flight_sql(stack.enter_context(connection.cursor())),
                 "parquet": duckdb_views(files), "tables": duckdb_tables(bench, files)}
        ours, theirs = ssb_queries.queries(ssb_queries.STARMERE), ssb_queries.queries(ssb_queries.DUCKDB)
        results = {}
        for name in ours:
            sql = {"starmere": ours[name], "parquet": theirs[name], "tables": theirs[name]}
            runs = {side: timed(lambda: ask(sql[side]), bench.repeats) for side, ask in sides.items()}
            answers = {side: answer for side, (_, answer) in runs.items()}
            results[name] = {f"{side}_ms": milliseconds for side, (milliseconds, _) in runs.items()}
            results[name]["rows"] = answers["starmere"].num_rows
            results[name]["equal"] = len({frozenset(rows_of(answer).items()) for answer in answers.values()}) == 1
    means = queries_table(results)
    if usage.get("peak_mb"):
        print(f"\nPeak memory of the server: {usage['peak_mb']:,.0f} MB.")
    return {"queries": results, "geometric_mean": means, "server": usage}


# Parts of steps.


def make_project(bench: Bench) -> None:
    """The definitions of examples/ssb with an empty warehouse, the events linked in, and ports of the system's."""
    shutil.rmtree(bench.project, ignore_errors=True)
    for folder in ("streams", "domains"):
        shutil.copytree(HERE.parent / "examples" / "ssb" / folder, bench.project / folder)
    (bench.project / "starmere.yaml").write_text(PROJECT_FILE)
    link_files(bench.data / "events", bench.project / "events")


def link_files(source: Path, target: Path) -> int:
    """Hard links to the files below `source` that `target` does not have yet; how many."""
    added = 0
    for path in sorted(source.rglob("*.jsonl")):
        link = target / path.relative_to(source)
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
            added += 1
    return added


def read_once(folder: Path) -> None:
    """Into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 22):
                    pass


def folder_mb(folder: Path) -> float:
    return ssb_generate.folder_bytes(folder) / 1e6


@contextlib.contextmanager
def serving(bench: Bench, usage: dict) -> Iterator[str]:
    """`starmere serve` until left; yields the address that it says it listens on, and fills in `usage`."""
    command = [str(bench.starmere), "serve", "--project", str(bench.project)]
    lines: list[str] = []
    said = threading.Event()
    with bench.log("serve").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.PIPE, text=True)

        def listen() -> None:
            for line in process.stderr:
                log.write(line)
                lines.append(line)
                if re.search(r"grpc://\S+", line):
                    said.set()
            said.set()  # the server is gone

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            said.wait(SERVE_TIMEOUT)
            found = re.search(r"grpc://[\w.:\[\]-]+", "".join(lines))
            if not found:
                raise Failed(f"`{' '.join(command)}` did not say `flight sql  grpc://…`; it said:\n{''.join(lines)}")
            yield found.group()
        finally:
            usage["peak_mb"] = peak_mb(process.pid)
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            listener.join(timeout=5)


def count_lines(connection: flight_sql.Connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sales.ssb_v1.lineorder")
        return cursor.fetchone()[0]


def parquet_files(bench: Bench, manifest: dict, lines: int) -> dict[str, list[str]]:
    """The plain star that holds as many lines as Starmere serves: with or without the increment."""
    files = {name: [str(bench.data / "parquet" / f"{name}.parquet")] for name in TABLES}
    if lines == manifest["lines"] + manifest["extra_lines"]:
        files["lineorder"].append(str(bench.data / "increment" / "parquet" / "lineorder.parquet"))
    elif lines != manifest["lines"]:
        raise Failed(f"Starmere serves {lines:,} lines; {manifest['lines']:,} were generated, "
                     f"and {manifest['extra_lines']:,} in the increment")
    return files


def over_flight_sql(cursor: flight_sql.Cursor) -> Callable[[str], pyarrow.Table]:
    """The cursor prepares a statement when it sees it first: during the warm-up."""
    def ask(sql: str) -> pyarrow.Table:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()
    return ask


def duckdb_views(files: dict[str, list[str]]) -> Callable[[str], pyarrow.Table]:
    connection = duckdb.connect(config={"threads": duckdb_side.THREADS})
    for name, paths in files.items():
        connection.execute(f'CREATE VIEW "{name}" AS FROM read_parquet({paths})')
    return lambda sql: connection.sql(sql).to_arrow_table()


def duckdb_tables(bench: Bench, files: dict[str, list[str]]) -> Callable[[str], pyarrow.Table]:
    path = bench.work / f"duckdb-{bench.scale:g}" / "tables.duckdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    connection = duckdb.connect(str(path), config={"threads": duckdb_side.THREADS})
    for name, paths in files.items():
        connection.execute(f'CREATE TABLE "{name}" AS FROM read_parquet({paths})')
    connection.execute("CHECKPOINT")
    return lambda sql: connection.sql(sql).to_arrow_table()


def timed(ask: Callable[[], pyarrow.Table], repeats: int) -> tuple[float, pyarrow.Table]:
    """Median milliseconds of `repeats`, after one to warm up; and the last answer."""
    answer, times = ask(), []
    for _ in range(repeats):
        began = time.perf_counter()
        answer = ask()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times), answer


def rows_of(answer: pyarrow.Table) -> Counter:
    """The rows, whatever their order: `ORDER BY revenue` leaves ties open."""
    return Counter(zip(*(column.to_pylist() for column in answer.columns)))


# Tables.


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def costs_table(title: str, costs: dict[str, Cost]) -> None:
    table(title, ["", "time", "CPU", "peak memory"],
          [[name, f"{cost.seconds:.2f} s", f"{cost.cpu_seconds:.1f} s", f"{cost.peak_mb:,.0f} MB"]
           for name, cost in costs.items()])


def queries_table(results: dict[str, dict]) -> dict[str, float]:
    """Prints it; returns the geometric means of our time over DuckDB's."""
    rows = []
    for name, result in results.items():
        ratios = [result["starmere_ms"] / result[f"{side}_ms"] for side in ("parquet", "tables")]
        rows.append([name, f"{result['starmere_ms']:.1f}", f"{result['parquet_ms']:.1f}", f"{result['tables_ms']:.1f}",
                     *(f"{ratio:.2f}" for ratio in ratios), f"{result['rows']:,}",
                     "yes" if result["equal"] else "**NO**"])
    means = {side: math.exp(statistics.fmean(math.log(r["starmere_ms"] / r[f"{side}_ms"]) for r in results.values()))
             for side in ("parquet", "tables")}
    rows.append(["geometric mean", "", "", "", f"**{means['parquet']:.2f}**", f"**{means['tables']:.2f}**", "", ""])
    table("Queries, median milliseconds", ["", "Starmere", "DuckDB, Parquet", "DuckDB, own tables",
                                           "ratio, Parquet", "ratio, own tables", "rows", "equal"], rows)
    return means


def keep(path: Path, bench: Bench, measured: dict[str, dict]) -> None:
    """Results of other steps at the same scale stay; each step says when it was measured, and of which version."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("scale") != bench.scale:
        kept = {}
    version = subprocess.run([str(bench.starmere), "--version"], capture_output=True, text=True).stdout.strip()
    stamp = {"measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "starmere": version}
    kept |= {"scale": bench.scale, "machine": {"system": platform.platform(), "processors": os.cpu_count()},
             "duckdb": duckdb.__version__}
    kept |= {step: {"measured": stamp, **result} for step, result in measured.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2) + "\n")


def run(bench: Bench, steps: list[str], results: Path) -> bool:
    bench.work.mkdir(parents=True, exist_ok=True)
    manifest = generate(bench)
    measured: dict[str, Any] = {"data": manifest}
    try:
        if "land" in steps:
            measured["land"] = land(bench, manifest)
        if "build" in steps:
            measured["build"] = build(bench, from_scratch="land" in steps)
        if "increment" in steps:
            measured["increment"] = increment(bench, manifest)
        if "queries" in steps:
            measured["queries"] = ask_queries(bench, manifest)
    finally:
        keep(results, bench, measured)
    answers = measured.get("queries", {}).get("queries", {})
    return all(result["equal"] for result in answers.values())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("starmere", type=Path, help="the binary, such as target/release/starmere")
    arguments.add_argument("work_dir", type=Path, help="folder for data, warehouses and logs")
    arguments.add_argument("scale", type=float, help="scale factor: 1 is six million lines")
    arguments.add_argument("--steps", default=",".join(STEPS), help="which steps, with commas between them")
    arguments.add_argument("--repeats", type=int, default=5, help="how often each query is timed")
    arguments.add_argument("--endpoint", help="ask a server that runs already, such as grpc://127.0.0.1:7071")
    arguments.add_argument("--results", type=Path, default=HERE / "results" / "latest.json",
                           help="file to keep them in")
    options = arguments.parse_args()
    steps = options.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        arguments.error(f"unknown step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")

    bench = Bench(options.starmere.resolve(), options.work_dir.resolve(), options.scale, options.repeats,
                  options.endpoint)
    try:
        equal = run(bench, steps, options.results)
    except Failed as failure:
        raise SystemExit(f"error: {failure}")
    if not equal:
        raise SystemExit("error: Starmere and DuckDB answered differently")


if __name__ == "__main__":
    main()

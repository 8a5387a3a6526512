#!/usr/bin/env python3
"""Measure Starmere on the Star Schema Benchmark, beside others on the same machine and data.

    python ssb.py target/release/starmere /tmp/bench 1                    # everything, at scale factor 1
    python ssb.py target/release/starmere /tmp/bench 1 --steps queries    # one step; the others' work is kept

Steps, in this order:

    land       `starmere ingest --once`            beside  DuckDB: NDJSON to Parquet with the same columns
    build      `starmere build`, from the lake      beside  DuckDB: hand-written SQL from the landed Parquet to the star
    increment  1% more events: ingest, then build   beside  DuckDB: landing them and appending their lines by hand
    queries    the 13 queries over Flight SQL       beside  DuckDB and ClickHouse, on the plain Parquet and on tables of
                                                            their own, and polars on the plain Parquet

Every step is measured warm (files in the page cache; queries by a process that has answered before) and cold (files out
of the page cache, a new process), each several times, in rounds: one run of each side a round. All sides have the same two
cores. Codecs are the same on all sides, and so are the queries, but for the join's keys. The answers are compared row by
row. Results, with settings and what stays unequal, are kept in bench/results/ssb-SCALE.json; `report.py` prints them.
Exit 1 if a step fails or an answer differs.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Iterator, NamedTuple

import pyarrow
import pyarrow.parquet

import ssb_generate
import ssb_queries
from keeping import RESULTS, keep
from measuring import HERE, REPEATS, Cost, Failed, evict, folder_mb, in_rounds, measure, peak_mb, pin, progress, rounded

STEPS = ("land", "build", "increment", "queries")
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

DUCKDB = "hand-written SQL in bench/duckdb_side.py; preserve_insertion_order = false, parquet_metadata_cache = true; "
PROMISES = ("Against Starmere: it syncs what it commits, keeps positions, digests and hashes of keys, takes late and repeated "
            "events, and can be killed. DuckDB's SQL promises nothing: no history, no late changes, no swap, no resumption.")
PYTHON = "Against DuckDB: its side starts Python, some 0.1 s, whose memory (some 60 MB) is in its peak."
NOT_BESIDE = "ClickHouse and polars are not measured in this step: nobody has written its SQL for them."
SETTINGS = {
    "land": {"Starmere": "`ingest --once`; zstd level 1", "DuckDB": DUCKDB + "zstd level 1"},
    "build": {"Starmere": "`build` of what has landed; models in LZ4_RAW", "DuckDB": DUCKDB + "the star in LZ4_RAW"},
    "increment": {"Starmere": "`ingest --once`, then `build`, two processes", "DuckDB": DUCKDB + "one process; "
                  "new orders are those whose id is not among the landed ones (one id an order)"},
}
UNEQUAL = {
    "land": [PROMISES, PYTHON, "ClickHouse and polars land other events beside Starmere: see Landing."],
    "build": [PROMISES, PYTHON, NOT_BESIDE],
    "increment": [PROMISES, PYTHON, "Against Starmere: two processes where DuckDB's side is one.", NOT_BESIDE],
}

QUERY_SIDES = {  # in the tables' order: title -> how `askers.py` names it
    "Starmere": "starmere",
    "DuckDB, Parquet": "duckdb-parquet",
    "DuckDB, own tables": "duckdb-tables",
    "ClickHouse, Parquet": "clickhouse-parquet",
    "ClickHouse, own tables": "clickhouse-tables",
    "polars, Parquet": "polars-parquet",
}
QUERY_SETTINGS = {
    "Starmere": "`serve`, over Flight SQL with ADBC; its own tables, which are Parquet (LZ4_RAW, keys uncompressed)",
    "DuckDB, Parquet": "in process; LZ4_RAW, row groups of 122,880 rows, parquet_metadata_cache = true",
    "DuckDB, own tables": "in process; its own storage",
    "ClickHouse, Parquet": "chdb, in process; the same files, use_parquet_metadata_cache = 1, columns not Nullable",
    "ClickHouse, own tables": "chdb, in process; MergeTree ordered by the order's day, LowCardinality for texts of few values",
    "polars, Parquet": "in process; the same files, lazy frames made once, streaming engine",
}
QUERY_UNEQUAL = [
    "Against Starmere: another process answers, over a socket; and it joins on hashed 64-bit keys, the others on the "
    "benchmark's dense 32-bit ones.",
    "Warm: each round has other literals, the same ones on all sides. Cold: DuckDB, ClickHouse and polars open their tables in the "
    "time, and have loaded their libraries before; Starmere's server has started before, and the client connects in the time. "
    "The programs themselves are in the page cache.",
    "DuckDB, ClickHouse and polars keep what they have read of Parquet as they do by default; none keeps answers.",
]


class Bench(NamedTuple):
    starmere: Path
    work: Path
    scale: float
    repeats: int

    @property
    def data(self) -> Path:
        return self.work / f"data-{self.scale:g}"

    @property
    def project(self) -> Path:
        return self.work / f"project-{self.scale:g}"

    @property
    def warehouse(self) -> Path:
        return self.project / "warehouse"

    def peer(self, name: str) -> Path:
        return self.work / f"peers-{self.scale:g}" / name

    def run_starmere(self, *arguments: str) -> Cost:
        return measure([str(self.starmere), *arguments, "--project", str(self.project)], self.log(arguments[0]))

    def run_duckdb(self, *arguments: Any) -> Cost:
        script = [sys.executable, str(HERE / "duckdb_side.py")]
        return measure(script + [str(argument) for argument in arguments], self.log(f"duckdb-{arguments[0]}"))

    def log(self, name: str) -> Path:
        return self.work / f"{name}.log"


# Steps. Each returns what is to be kept in the results.


def land(bench: Bench, data: dict) -> dict:
    lake = bench.peer("lake")

    def prepare(side: str) -> list[Path]:
        if side == "Starmere":
            make_project(bench)
        else:
            made_anew(lake)
        return [bench.data / "events"]

    costs = in_rounds("land", {"Starmere": lambda: bench.run_starmere("ingest", "--once"),
                               "DuckDB": lambda: bench.run_duckdb("land", bench.data / "events", lake)},
                      prepare, bench.repeats)
    landed = sum(pyarrow.parquet.read_metadata(file).num_rows for file in lake.rglob("*.parquet"))
    if landed != data["events"]:
        raise Failed(f"{data['events']:,} events were generated; DuckDB has landed {landed:,}")
    remember(bench, "landed")
    return {**costs, "on_disk_mb": rounded({"Starmere": folder_mb(bench.warehouse), "DuckDB": folder_mb(lake)})}


def build(bench: Bench, data: dict) -> dict:
    lake, star = bench.peer("lake"), bench.peer("star")

    def prepare(side: str) -> list[Path]:
        if side == "Starmere":
            restore(bench, "landed")
            return [bench.warehouse]
        made_anew(star)
        return [lake]

    costs = in_rounds("build", {"Starmere": lambda: bench.run_starmere("build"),
                                "DuckDB": lambda: bench.run_duckdb("build", lake, star)}, prepare, bench.repeats)
    check_lines(bench, data["lines"], star)
    remember(bench, "built")
    return {**costs, "on_disk_mb": rounded({"Starmere": folder_mb(bench.warehouse / "models"), "DuckDB": folder_mb(star)})}


def increment(bench: Bench, data: dict) -> dict:
    lake, star, events = bench.peer("lake"), bench.peer("star"), bench.data / "increment" / "events"
    link_files(events, bench.project / "events")

    def prepare(side: str) -> list[Path]:
        if side == "Starmere":
            restore(bench, "built")
            return [events, bench.warehouse]
        for path in (lake / "orders" / "increment.parquet", star / "lineorder" / "increment.parquet"):
            path.unlink(missing_ok=True)
        return [events, lake, star]

    def ours() -> Cost:
        both = bench.run_starmere("ingest", "--once"), bench.run_starmere("build")
        return Cost(*(sum(cost[:2][at] for cost in both) for at in range(2)), max(cost.peak_mb for cost in both))

    costs = in_rounds("increment", {"Starmere": ours,
                                    "DuckDB": lambda: bench.run_duckdb("increment", events, lake, star)},
                      prepare, bench.repeats)
    check_lines(bench, data["lines"] + data["extra_lines"], star)
    return costs


def ask_queries(bench: Bench, data: dict) -> dict:
    restore(bench, "built")
    made_anew(bench.peer("answers"))
    where = make_tables(bench)
    warm, peaks, differing = warm_queries(bench, where)
    cold = {}
    for query in ssb_queries.queries(ssb_queries.DUCKDB):
        cold[query] = {title: [] for title in QUERY_SIDES}
        for number in range(bench.repeats):
            for title, side in QUERY_SIDES.items():
                cold[query][title].append(cold_query(bench, side, query, where))
        progress(f"queries, cold, {query}: Starmere {cold[query]['Starmere'][0]:.0f} ms")
    return {"settings": QUERY_SETTINGS, "unequal": QUERY_UNEQUAL, "warm": warm, "cold": cold, "differing": differing,
            "peak_mb": rounded(peaks)}


def warm_queries(bench: Bench, where: dict[str, Path]) -> tuple[dict, dict, list[str]]:
    """Milliseconds a round by query and side; peak memory by side; which answers differ."""
    names = list(ssb_queries.queries(ssb_queries.DUCKDB))
    found = {name: {title: [] for title in QUERY_SIDES} for name in names}
    differing, peaks = [], {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(bench))
        askers = {title: stack.enter_context(asker(side, where.get(side) or server.flight))
                  for title, side in QUERY_SIDES.items()}
        # The first two rounds warm up: one opens the tables, another lets engines learn what they learn.
        for number in range(-2, bench.repeats):
            for name in names:
                answers = {}
                for title in list(QUERY_SIDES)[::-1 if number % 2 else 1]:
                    path = bench.peer("answers") / QUERY_SIDES[title]
                    said = askers[title](form_of(QUERY_SIDES[title], number + 2)[name], path)
                    answers[title], peaks[title] = rows_of(path), said["peak_mb"]
                    if number >= 0:
                        found[name][title].append(said["ms"])
                differing += [f"{name}, literals {number + 2}: {title}" for title, rows in answers.items()
                              if rows != answers["Starmere"]]
            progress(f"queries, warm, round {number + 1} of {bench.repeats}" if number >= 0 else "queries, warming up")
        peaks["Starmere"] = peak_mb(server.process)
    return found, peaks, differing


def cold_query(bench: Bench, side: str, query: str, where: dict[str, Path]) -> float:
    """Milliseconds of a new process whose files are on the disk only."""
    sql = form_of(side, 0)[query]
    if side != "starmere":
        with asker(side, where[side]) as ask:
            os.sync()
            evict(where[side])
            return ask(sql, None)["ms"]
    with serving(bench) as server, asker(side, server.flight) as ask:
        os.sync()
        evict(bench.warehouse)
        return ask(sql, None)["ms"]


# Parts of steps.


def make_project(bench: Bench) -> None:
    """The definitions of examples/ssb with an empty warehouse, the events linked in, and ports of the system's."""
    made_anew(bench.project)
    for folder in ("streams", "domains"):
        shutil.copytree(HERE.parent / "examples" / "ssb" / folder, bench.project / folder)
    (bench.project / "starmere.yaml").write_text(PROJECT_FILE)
    link_files(bench.data / "events", bench.project / "events")


def made_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def remember(bench: Bench, state: str) -> None:
    """Keeps the warehouse as it is now, as links: no file of a warehouse is ever written again."""
    shutil.rmtree(bench.project / state, ignore_errors=True)
    shutil.copytree(bench.warehouse, bench.project / state, copy_function=os.link)


def restore(bench: Bench, state: str) -> None:
    if not (bench.project / state).is_dir():
        raise Failed(f"nothing is {state}: choose the step `{'land' if state == 'landed' else 'build'}` too")
    shutil.rmtree(bench.warehouse, ignore_errors=True)
    shutil.copytree(bench.project / state, bench.warehouse, copy_function=os.link)


def check_lines(bench: Bench, lines: int, star: Path) -> None:
    """Both sides have made as many lines as there are."""
    command = [str(bench.starmere), "sql", "SELECT count(*) AS lines FROM sales.ssb_v1.lineorder", "--format", "csv", "--quiet",
               "--project", str(bench.project)]
    ours = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    theirs = sum(pyarrow.parquet.read_metadata(file).num_rows for file in (star / "lineorder").glob("*.parquet"))
    if (ours, theirs) != (lines, lines):
        raise Failed(f"{lines:,} lines were generated; Starmere has {ours:,}, DuckDB {theirs:,}")


def link_files(source: Path, target: Path) -> None:
    """Hard links to the files below `source` that `target` does not have yet."""
    for path in sorted(source.rglob("*.jsonl")):
        link = target / path.relative_to(source)
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)


class Server(NamedTuple):
    flight: str
    http: str
    process: int


@contextlib.contextmanager
def serving(bench: Bench) -> Iterator[Server]:
    """`starmere serve` until left, with the addresses that it says it listens on."""
    command = [str(bench.starmere), "serve", "--project", str(bench.project)]
    lines: list[str] = []
    said = threading.Event()
    with bench.log("serve").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.PIPE, text=True)

        def addresses() -> list[str | None]:
            text = "".join(lines)
            return [found and found.group() for found in (re.search(rf"{kind}://[\w.:\[\]-]+", text) for kind in ("grpc", "http"))]

        def listen() -> None:
            for line in process.stderr:
                log.write(line)
                lines.append(line)
                if all(addresses()):
                    said.set()
            said.set()  # the server is gone

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            said.wait(SERVE_TIMEOUT)
            if not all(addresses()):
                raise Failed(f"`{' '.join(command)}` did not say `grpc://…` and `http://…`; it said:\n{''.join(lines)}")
            yield Server(*addresses(), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            listener.join(timeout=5)


@contextlib.contextmanager
def asker(side: str, where: Path | str) -> Iterator[Any]:
    """A function that asks this side SQL, and has it write the answer to a path; the side is a process of its own."""
    command = [sys.executable, str(HERE / "askers.py"), side, str(where)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        def next_line() -> str:
            line = process.stdout.readline()
            if not line:
                raise Failed(f"{side} ended with {process.wait()}")
            return line

        def ask(sql: str, answer: Path | None) -> dict:
            process.stdin.write(json.dumps({"sql": sql, "answer": answer and str(answer)}) + "\n")
            process.stdin.flush()
            said = json.loads(next_line())
            if "error" in said:
                raise Failed(f"{side} does not answer `{' '.join(sql.split())}`: {said['error']}")
            return said

        next_line()
        yield ask
        process.stdin.close()


def make_tables(bench: Bench, own: Iterable[str] = ("duckdb-tables", "clickhouse-tables")) -> dict[str, Path]:
    """Where each side's tables are; the engines' own are made anew."""
    parquet = bench.data / "parquet"
    where = {side: parquet for side in QUERY_SIDES.values() if side.endswith("-parquet")}
    for side in own:
        where[side] = bench.peer(side)
        shutil.rmtree(where[side], ignore_errors=True)
        where[side].unlink(missing_ok=True)
        where[side].parent.mkdir(parents=True, exist_ok=True)
        progress(f"making {side}")
        command = [sys.executable, str(HERE / "askers.py"), side, str(where[side]), "--make", str(parquet)]
        measure(command, bench.log(side))
    return where


def form_of(side: str, literals: int) -> dict[str, str]:
    form = ssb_queries.STARMERE if side == "starmere" else ssb_queries.DUCKDB
    return ssb_queries.queries(form, ssb_queries.literals(literals))


def rows_of(path: Path) -> Counter:
    """The rows, whatever their order: `ORDER BY revenue` leaves ties open."""
    with pyarrow.OSFile(str(path)) as file:
        answer = pyarrow.ipc.open_file(file).read_all()
    return Counter(zip(*(column.to_pylist() for column in answer.columns)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    arguments.add_argument("starmere", type=Path, help="the binary, such as target/release/starmere")
    arguments.add_argument("work_dir", type=Path, help="folder for data, warehouses and logs")
    arguments.add_argument("scale", type=float, help="scale factor: 1 is six million lines")
    arguments.add_argument("--steps", default=",".join(STEPS), help="which steps, with commas between them")
    arguments.add_argument("--repeats", type=int, default=REPEATS, help="how many runs each figure is the median of")
    arguments.add_argument("--results", type=Path, help="file to keep them in; bench/results/ssb-SCALE.json where not said")
    options = arguments.parse_args()
    steps = options.steps.split(",")
    if unknown := set(steps) - set(STEPS):
        arguments.error(f"unknown step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")

    pin()
    bench = Bench(options.starmere.resolve(), options.work_dir.resolve(), options.scale, options.repeats)
    results = options.results or RESULTS / f"ssb-{options.scale:g}.json"
    bench.data.mkdir(parents=True, exist_ok=True)
    progress("making the data, unless it is there")
    data = ssb_generate.generate(bench.scale, bench.data)
    of = {"land": land, "build": build, "increment": increment, "queries": ask_queries}
    for step in (step for step in STEPS if step in steps):
        try:
            found = of[step](bench, data)
        except Failed as failure:
            raise SystemExit(f"error: {step}: {failure}")
        found = {"settings": SETTINGS.get(step), "unequal": UNEQUAL.get(step), **found, "data": data}
        keep(results, bench.starmere, {step: found})
        if found.get("differing"):
            raise SystemExit("error: answers differ:\n" + "\n".join(found["differing"]))


if __name__ == "__main__":
    main()

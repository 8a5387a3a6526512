#!/usr/bin/env python3
"""Are the figures that are published the ones that were measured, and are the benchmarks fair?

    python figures.py

bench/RESULTS.md must be what bench/report.py makes of bench/results; no other page may quote a figure of speed. The parts
of the benchmarks that make them fair are tried: both sides' cores, the order of rounds, codecs and levels of what the
peers write, files out of the page cache, the same answers for all literals. The last line says how many checks passed.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import duckdb_side  # noqa: E402
import fields  # noqa: E402
import landing_events  # noqa: E402
import landing_peers  # noqa: E402
import measuring  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import ssb_generate  # noqa: E402
import ssb_queries  # noqa: E402
from ssb import asker, rows_of  # noqa: E402

HERE = ROOT / "bench"
SCALE = 0.005
#: Words for figures that are kept nowhere, and figures of speed.
UNPROVEN = re.compile(r"faster day|faster hour|[Oo]ther runs|[Aa]nother run, half|\d MB/s|\d queries a second|geometric mean")
STAMP = {"at": "2026-01-01T00:00:00+00:00", "commit": "abc", "versions": {"starmere": "0"},
         "machine": {"system": "Linux", "cores": 2}}


def same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"found {found}, expected {expected}")


def published_is_measured(_: Path) -> None:
    subprocess.run([sys.executable, str(HERE / "report.py"), "--check"], check=True)


def a_page_that_was_edited_is_found(work: Path) -> None:
    page = work / "RESULTS.md"
    page.write_text(report.page(HERE / "results").replace("1", "2"))
    done = subprocess.run([sys.executable, str(HERE / "report.py"), "--check", "--out", str(page)], capture_output=True)
    same(done.returncode, 1)


def figures_stand_in_one_place(_: Path) -> None:
    pages = [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"))]
    found = [f"{page.relative_to(ROOT)}:{number}: {line}" for page in pages
             for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1) if UNPROVEN.search(line)]
    if found:
        raise AssertionError("figures that are not in bench/RESULTS.md:\n" + "\n".join(found))


def ratios_are_those_of_rounds(work: Path) -> None:
    """The machine was twice as slow in the second round, for both: that is no spread of the ratio."""
    def cost(seconds: float) -> dict:
        return {"seconds": seconds, "cpu_seconds": seconds, "peak_mb": 10.0}
    step = {"measured": STAMP, "events": 10, "bytes": 1_000_000, "unequal": ["The moon."],
            "warm": {"Starmere": [cost(1.0), cost(2.0), cost(1.0)], "DuckDB": [cost(2.0), cost(4.0), cost(4.0)]}}
    (work / "landing.json").write_text(json.dumps({"json": step}))
    page = report.page(work)
    for wanted in ("**0.50 (0.25–0.50)**", "1.00 (1.00–2.00)", "- The moon.", "Runs of each: 3.", "commit abc",
                   "- `ssb-1.json`, land", "- `growth.json`, members"):
        if wanted not in page:
            raise AssertionError(f"`{wanted}` is not in:\n{page}")
    same("## Freshness" in page, False)


def answers_that_differ_are_shown(work: Path) -> None:
    times = {query: {"Starmere": [1.0], "DuckDB, Parquet": [2.0]} for query in ("1.1", "1.2")}
    step = {"measured": STAMP, "warm": times, "cold": {}, "differing": ["1.1, literals 2: DuckDB, Parquet"],
            "data": {"scale": 1, "lines": 5}}
    (work / "ssb-1.json").write_text(json.dumps({"queries": step}))
    page = report.page(work)
    same(("**Answers differ**: 1.1, literals 2" in page, "| geometric mean |  |  | **0.50** |" in page), (True, True))


def a_process_has_the_cores_of_its_benchmark(work: Path) -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import measuring; measuring.pin(); import subprocess, os\n" \
              "measuring.measure([sys.executable, '-c', 'import os; print(sorted(os.sched_getaffinity(0)))'], " \
              "__import__('pathlib').Path(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", program, str(HERE), str(work / "log")], check=True)
    same(json.loads((work / "log").read_text()), sorted(os.sched_getaffinity(0))[:measuring.CORES])


def rounds_go_both_ways_after_the_same_preparation(work: Path) -> None:
    done = []
    file = work / "input"
    file.write_bytes(b"x" * 100_000)

    def side(name: str):
        return lambda: done.append(name) or measuring.Cost(1.0, 1.0, 1.0)

    def prepare(name: str) -> list[Path]:
        done.append(f"for {name}")
        return [file]

    found = measuring.in_rounds("test", {"a": side("a"), "b": side("b")}, prepare, 2)
    a_round = ["for a", "a", "for b", "b", "for b", "b", "for a", "a"]
    same((done, {cache: {name: len(runs) for name, runs in of.items()} for cache, of in found.items()}),
         (a_round * 2, {"warm": {"a": 2, "b": 2}, "cold": {"a": 2, "b": 2}}))


def the_cache_is_filled_and_emptied(work: Path) -> None:
    def resident() -> int:
        said = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", str(file)], capture_output=True, text=True)
        return int(said.stdout)
    file = work / "input"
    file.write_bytes(os.urandom(1_000_000))
    os.sync()
    measuring.evict(work)
    emptied = resident()
    measuring.read_once(file)
    # Where files are kept in memory (tmpfs), nothing can be emptied.
    on_disk = subprocess.run(["stat", "-f", "-c", "%T", str(work)], capture_output=True, text=True).stdout.strip() != "tmpfs"
    same((resident() >= 1_000_000, emptied == 0 or not on_disk), (True, True))


def peers_land_the_same_with_one_codec(work: Path) -> None:
    events = work / "events"
    landing_events.FILE_BYTES = 1_000_000
    landing_events.generate(2, events)
    found = {}
    for peer in ("duckdb", "clickhouse", "polars"):
        target = work / f"{peer}.parquet"
        subprocess.run([sys.executable, str(HERE / "landing_peers.py"), peer, str(events), str(target)], check=True)
        file = pyarrow.parquet.ParquetFile(target)
        codecs = {file.metadata.row_group(0).column(column).compression for column in range(file.metadata.num_columns)}
        same(codecs, {"ZSTD"})
        rows = file.read(["event_id", "event_type", "occurred_at", "subject", "payload"])
        payloads = rows["payload"].cast(pyarrow.large_binary()).to_pylist()
        times = rows["occurred_at"].cast(pyarrow.timestamp("us", "UTC")).to_pylist()
        found[peer] = Counter(zip(rows["event_id"].to_pylist(), rows["event_type"].to_pylist(), times,
                                  rows["subject"].to_pylist(), payloads))
    lines = Counter(line for path in events.glob("*.jsonl") for line in path.read_bytes().splitlines())
    same(Counter(row[-1] for row in found["duckdb"].elements()), lines)
    same((found["clickhouse"] == found["duckdb"], found["polars"] == found["duckdb"]), (True, True))


def codecs_are_those_of_the_lake(_: Path) -> None:
    writer = (ROOT / "lake" / "src" / "delta" / "write.rs").read_text()
    same((re.findall(r"ZstdLevel::try_new\((\d+)\)", writer), "Compression::LZ4_RAW" in writer),
         ([str(landing_peers.ZSTD_LEVEL)], True))
    same((f"COMPRESSION_LEVEL {landing_peers.ZSTD_LEVEL})" in duckdb_side.ZSTD, "lz4_raw" in duckdb_side.LZ4), (True, True))


def duckdb_builds_the_star_that_was_generated(work: Path) -> None:
    data, lake, star = work / "data", work / "lake", work / "star"
    manifest = ssb_generate.generate(SCALE, data)
    script = [sys.executable, str(HERE / "duckdb_side.py")]
    for step in (["land", data / "events", lake], ["build", lake, star], ["increment", data / "increment" / "events", lake, star]):
        subprocess.run([*script, *map(str, step)], check=True)
    lines = [pyarrow.parquet.ParquetFile(star / "lineorder" / f"{name}.parquet") for name in ("base", "increment")]
    same([file.metadata.num_rows for file in lines], [manifest["lines"], manifest["extra_lines"]])
    plain = pyarrow.parquet.ParquetFile(data / "parquet" / "lineorder.parquet")
    # pyarrow calls LZ4_RAW so.
    same({file.metadata.row_group(0).column(0).compression for file in [*lines, plain]}, {"LZ4"})
    same(sum(lines[0].read(["revenue"])["revenue"].to_pylist()), sum(plain.read(["lo_revenue"])["lo_revenue"].to_pylist()))


def data_made_in_pieces_is_whole(work: Path) -> None:
    sizes = ssb_generate.ORDERS_AT_ONCE, ssb_generate.EVENTS_PER_FILE
    ssb_generate.ORDERS_AT_ONCE, ssb_generate.EVENTS_PER_FILE = 2_000, 500
    try:
        manifest = ssb_generate.generate(SCALE, work)
    finally:
        ssb_generate.ORDERS_AT_ONCE, ssb_generate.EVENTS_PER_FILE = sizes
    lines = pyarrow.parquet.read_table(work / "parquet" / "lineorder.parquet", columns=["lo_orderkey", "lo_orderdate"])
    days = lines["lo_orderdate"].to_pylist()
    events = sum(len(path.read_bytes().splitlines()) for path in (work / "events" / "orders").glob("*.jsonl"))
    same((events, len(set(lines["lo_orderkey"].to_pylist())), days == sorted(days)),
         (manifest["orders"], manifest["orders"], True))


def engines_answer_alike_for_all_literals(work: Path) -> None:
    ssb_generate.generate(SCALE, work)
    parquet, answer, found = work / "parquet", work / "answer", {}
    for side in ("duckdb-parquet", "duckdb-tables", "clickhouse-parquet", "clickhouse-tables", "polars-parquet"):
        where = parquet if side.endswith("parquet") else work / side
        if where != parquet:
            subprocess.run([sys.executable, str(HERE / "askers.py"), side, str(where), "--make", str(parquet)], check=True)
        with asker(side, where) as ask:
            for literals in range(3):
                for name, sql in ssb_queries.queries(ssb_queries.DUCKDB, ssb_queries.literals(literals)).items():
                    ask(sql, answer)
                    # Where no row is found, a sum is null for some and 0 for others: so few rows are not what is measured.
                    rows = Counter({row: times for row, times in rows_of(answer).items() if row not in ((None,), (0,))})
                    same((side, literals, name, found.setdefault((literals, name), rows) == rows), (side, literals, name, True))


def literals_differ_and_the_first_are_the_benchmarks(_: Path) -> None:
    same(ssb_queries.literals(0), ssb_queries.Literals())
    texts = {tuple(ssb_queries.queries(ssb_queries.DUCKDB, ssb_queries.literals(number)).values()) for number in range(100)}
    same(len(texts), 100)


def output_of_the_fields_test_is_read(_: Path) -> None:
    said = """running 1 test
nested, no paths: 1026 bytes, 0 paths in one pass: 400 ns, 2565 MB/s
nested, all fields: 1026 bytes, 39 paths in one pass: 2100 ns, 488 MB/s; a call for each path takes 28.1 times that
"""
    same([(case["payload"], case["paths"], case["ns"], case["one_call_each"]) for case in fields.cases(said)],
         [("nested, no paths", 0.0, 400.0, None), ("nested, all fields", 39.0, 2100.0, 28.1)])


def parts_can_be_chosen(work: Path) -> None:
    script = [sys.executable, str(HERE / "run.py"), "no-binary", str(work)]
    done = subprocess.run([*script, "--only", "landing nothing"], capture_output=True, text=True)
    same((done.returncode, "no benchmark is called nothing" in done.stderr), (2, True))
    same([(HERE / part.script).is_file() for part in run.PARTS.values()], [True] * len(run.PARTS))


CHECKS = [published_is_measured, a_page_that_was_edited_is_found, figures_stand_in_one_place, ratios_are_those_of_rounds,
          answers_that_differ_are_shown, a_process_has_the_cores_of_its_benchmark,
          rounds_go_both_ways_after_the_same_preparation, the_cache_is_filled_and_emptied, peers_land_the_same_with_one_codec,
          codecs_are_those_of_the_lake, duckdb_builds_the_star_that_was_generated, data_made_in_pieces_is_whole, engines_answer_alike_for_all_literals,
          literals_differ_and_the_first_are_the_benchmarks, output_of_the_fields_test_is_read, parts_can_be_chosen]


def main() -> None:
    passed = failed = 0
    for check in CHECKS:
        try:
            with tempfile.TemporaryDirectory(prefix="figures-") as work:
                check(Path(work))
        except Exception as error:
            failed += 1
            print(f"FAIL  {check.__name__}: {type(error).__name__}: {error}", flush=True)
        else:
            passed += 1
            print(f"ok    {check.__name__}", flush=True)
    print(f"{passed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

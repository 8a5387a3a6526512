#!/usr/bin/env python3
"""Write bench/RESULTS.md from the files of bench/results.

    python report.py            # bench/RESULTS.md
    python report.py --check    # says whether it is as these files make it; writes nothing

A ratio is the median of the rounds' ratios: in each round, Starmere's run beside the other side's of the same round. What has
not been measured is left out, and named at the end.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Callable, Iterable, Iterator

from measuring import HERE

OUT = HERE / "RESULTS.md"
OURS = "Starmere"
HEAD = """\
# Results

Written by `make bench` from the files in [results](results); do not edit. Each figure is a median, with the least and
the greatest in brackets, of the runs that the line above its table counts. A ratio is Starmere's time by the other
side's in the same round: below 1, Starmere is faster. *Warm*: files are in the page cache, and a process that answers
queries has answered before. *Cold*: files are on the disk only, and the process is new.
"""


# Figures.


def median(values: list[float], form: str) -> str:
    """`12.3 (12.1–12.9)`, or `12.3` where there is only one."""
    middle, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def of(runs: list[dict], what: str) -> list[float]:
    return [run[what] for run in runs if run.get(what) is not None]


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


# Pieces of the page.


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def notes(step: dict) -> Iterator[str]:
    """Settings, what stays unequal, and what was measured where."""
    if settings := step.get("settings"):
        yield "Settings:\n\n" + bullets(f"{side}: {text}" for side, text in settings.items())
    if unequal := step.get("unequal"):
        yield "What stays unequal:\n\n" + bullets(unequal)
    stamp = step["measured"]
    versions = ", ".join(f"{name} {version}" for name, version in stamp.get("versions", {}).items())
    machine = stamp["machine"]
    where = ", ".join(str(part) for part in (
        machine.get("processor"), f"{machine['cores']} cores", machine.get("memory_gib") and f"{machine['memory_gib']} GiB",
        machine["system"], "pinned_to" in stamp and f"pinned to {stamp['pinned_to']}") if part)
    yield f"Measured {stamp['at']}, commit {stamp['commit']}; {versions}; {where}.\n"


def section(title: str, intro: str, body: Iterable[str], step: dict) -> str:
    return "\n".join([f"## {title}\n", f"{intro}\n", *body, *notes(step)])


def costs_of(step: dict, bytes_of: dict | None = None) -> Iterator[str]:
    """A table for each state of the cache."""
    for cache in ("warm", "cold"):
        if cache not in step:
            continue
        sides = step[cache]
        ours = sides.get(OURS)
        header = [cache, "time, s", *(["MB/s"] if bytes_of else []), "processor, s", "peak memory, MB"]
        beside = ours is not None and len(sides) > 1
        rows = []
        for side, runs in sides.items():
            seconds = of(runs, "seconds")
            row = [side, median(seconds, "{:.2f}")]
            if bytes_of:
                row.append(f"{bytes_of['bytes'] / statistics.median(seconds) / 1e6:,.0f}")
            row += [median(of(runs, "cpu_seconds"), "{:.1f}"), median(of(runs, "peak_mb"), "{:,.0f}")]
            if beside:
                row += ["", ""] if side == OURS else [f"**{median(ratios(of(ours, 'seconds'), seconds), '{:.2f}')}**",
                                                      median(ratios(of(ours, "cpu_seconds"), of(runs, "cpu_seconds")), "{:.2f}")]
            rows.append(row)
        yield f"Runs of each: {len(next(iter(sides.values())))}.\n"
        yield table(header + (["ratio, time", "ratio, processor"] if beside else []), rows)
    if sizes := step.get("on_disk_mb"):
        yield "On disk: " + ", ".join(f"{side} {size:,.0f} MB" for side, size in sizes.items()) + ".\n"


# Sections: the title and the text of a step.


def landing_json(step: dict) -> str:
    return section("Landing", f"{step['events']:,} nested events of {step['bytes'] / 1e6:,.0f} MB as newline-delimited JSON, to "
                   "Parquet with the envelope's columns and the payload verbatim.", costs_of(step, step), step)


def landing_kafka(step: dict) -> str:
    return section("Landing from Kafka", f"The same events, {step['events']:,} of them, in a topic of {step['partitions']} "
                   "partitions; beside a consumer that discards them.", costs_of(step, step), step)


def landing_memory(step: dict) -> str:
    return section("Memory of landing", f"{step['events']:,} events of {step['bytes'] / 1e9:.1f} GB; ingestion may hold "
                   f"{step['budget_mib']} MiB, the process has some of its own.", costs_of(step, step), step)


def landing_freshness(step: dict) -> str:
    forms = {"rate": "{:,.0f}", "median_ms": "{:,.0f}", "p99_ms": "{:,.0f}", "worst_ms": "{:,.0f}", "queries_per_s": "{:.0f}",
             "server_peak_mb": "{:,.0f}"}
    header = ["events/s, asked for", "events/s", "median, ms", "p99, ms", "worst, ms", "queries/s", "peak memory, MB"]
    rows = [[f"{int(rate):,}", *(median(of(runs, what), form) for what, form in forms.items())]
            for rate, runs in step["rates"].items()]
    runs = len(next(iter(step["rates"].values())))
    return section("Freshness", f"From the first byte of a post to the row in the answer of a query on `lake.*`; "
                   f"{step['clients']} clients post, another one asks all the time.",
                   [f"Runs of each: {runs}.\n", table(header, rows)], step)


def ssb_costs(title: str, what: Callable[[dict], str]) -> Callable[[dict], str]:
    def text(step: dict) -> str:
        data = step["data"]
        bytes_of = {"bytes": data["event_bytes"]} if title == "Landing" else None
        return section(f"Star Schema Benchmark, scale {data['scale']:g}: {title.lower()}", what(data), costs_of(step, bytes_of), step)
    return text


def ssb_queries(step: dict) -> str:
    data, body = step["data"], []
    for cache in ("warm", "cold"):
        if not (found := step.get(cache)):
            continue
        sides = list(next(iter(found.values())))
        others = [side for side in sides if side != OURS]
        rows = [[query, *(f"{statistics.median(times[side]):.1f}" for side in sides),
                 *(median(ratios(times[OURS], times[side]), "{:.2f}") for side in others)] for query, times in found.items()]
        means = means_of(found)
        rows.append(["geometric mean", *("" for _ in sides), *(f"**{median(means[side], '{:.2f}')}**" for side in others)])
        body += [f"Runs of each: {len(next(iter(found.values()))[OURS])}. Milliseconds, and Starmere's by the other's.\n",
                 table([cache, *sides, *(f"by {side}" for side in others)], rows)]
    if peaks := step.get("peak_mb"):
        body.append("Peak memory: " + ", ".join(f"{side} {peak:,.0f} MB" for side, peak in peaks.items()) + ".\n")
    body.append("**Answers differ**: " + "; ".join(step["differing"]) + ".\n" if step["differing"] else "All answers are equal.\n")
    return section(f"Star Schema Benchmark, scale {data['scale']:g}: queries", f"The thirteen queries, over {data['lines']:,} lines.",
                   body, step)


def stars(step: dict) -> str:
    return section("A star with history", f"A full build from {step['orders']:,} orders, of which a thousandth come twice, and two "
                   "dimensions with versions; sums over both stars are equal.", costs_of(step), step)


def clients(step: dict) -> str:
    sides = step["warm"]
    forms = {"queries_per_s": "{:.1f}", "median_ms": "{:,.0f}", "p99_ms": "{:,.0f}", "worst_ms": "{:,.0f}"}
    header = ["", "queries/s", "median, ms", "p99, ms", "worst, ms",
              *(f"queries/s by {side}'s" for side in sides if side.startswith("DuckDB"))]
    rows = [[side, *(median(of(runs, what), form) for what, form in forms.items()),
             *("" if side == other else median(ratios(of(runs, "queries_per_s"), of(sides[other], "queries_per_s")), "{:.2f}")
               for other in sides if other.startswith("DuckDB"))] for side, runs in sides.items()]
    first = next(iter(sides.values()))
    return section(f"{step['clients']} clients", f"The thirteen queries of the Star Schema Benchmark at scale {step['data']['scale']:g}, "
                   f"with varied literals, {first[0]['queries']} a run. Here a ratio above 1 is better.",
                   [f"Runs of each: {len(first)}.\n", table(header, rows)], step)


def growth(step: dict) -> str:
    first = next(iter(step["histories"].values()))["increment"]
    rows = [[f"{history['orders']:,}, of {history['customers']:,} customers", median(of(history["full"], "seconds"), "{:.1f}"),
             median(of(history["full"], "peak_mb"), "{:,.0f}"), median(of(history["increment"], "seconds"), "{:.2f}"),
             median(of(history["increment"], "peak_mb"), "{:,.0f}"),
             *("" if history["increment"] is first else f"{by_first(history['increment'], first, what):.2f}"
               for what in ("seconds", "peak_mb"))] for history in step["histories"].values()]
    header = ["orders before", "full build, s", "its peak, MB", "increment, s", "its peak, MB", "time, ratio", "memory, ratio"]
    return section("Growth", f"How an increment of {step['increment']:,} orders grows with the history before it. Ratios are those of "
                   "the medians, to the first line. The aim is 1.3 at ten times the history, and 2 at a hundred.",
                   [f"Runs of each increment: {len(first)}; of each full build: "
                    f"{len(next(iter(step['histories'].values()))['full'])}.\n", table(header, rows)], step)


def by_first(runs: list[dict], first: list[dict], what: str) -> float:
    return statistics.median(of(runs, what)) / statistics.median(of(first, what))


def members(step: dict) -> str:
    rows = [["full build", str(len(step["full"])), median(of(step["full"], "seconds"), "{:.1f}"),
             median(of(step["full"], "peak_mb"), "{:,.0f}"), ""],
            ["1% changed", str(len(step["batches"])), median(of(step["batches"], "seconds"), "{:.1f}"),
             median(of(step["batches"], "peak_mb"), "{:,.0f}"), median(of(step["batches"], "written"), "{:.2f}")]]
    return section("A large dimension", f"{step['members']:,} members with history; then batches that change a hundredth of them, "
                   "spread over all.", [table(["", "runs", "time, s", "peak memory, MB", "written, of its size"], rows)], step)


def memory(step: dict) -> str:
    forms = {"resident_mib": "{:,.0f}", "without_files_mib": "{:,.0f}", "share": "{:.2f}", "seconds": "{:.0f}"}
    rows = [[cost["command"], f"{cost['setting_mib']:,}", *(median(of(cost["runs"], what), form) for what, form in forms.items())]
            for cost in step["costs"]]
    header = ["", "`build_memory_mib`", "resident, MiB", "without pages of files, MiB", "share of the setting", "time, s"]
    return section("Memory of builds", f"{step['gigabytes']:g} GB of events, a dimension with history, a fact, a roll-up, a SQL model; "
                   f"{step['allowed']} of the setting are allowed.",
                   [f"Runs of each: {len(step['costs'][0]['runs'])}.\n", table(header, rows)], step)


def fields(step: dict) -> str:
    rows = [[case["payload"], f"{case['bytes']:.0f}", f"{case['paths']:.0f}", f"{case['ns']:,.0f}", f"{case['mb_per_s']:,.0f}",
             f"{case['one_call_each']:.1f} times" if case["one_call_each"] else ""] for case in step["cases"]]
    return section("Fields of a payload", "Finding fields in a payload in one pass.",
                   [table(["payload", "bytes", "paths", "ns", "MB/s", "a call for each path"], rows)], step)


LANDED = "{events:,} events of {lines:,} order lines."
SECTIONS: list[tuple[str, str, Callable[[dict], str]]] = [
    ("landing", "json", landing_json),
    ("landing", "kafka", landing_kafka),
    ("landing", "memory", landing_memory),
    ("landing", "freshness", landing_freshness),
    *((f"ssb-{scale}", step, text) for scale in (1, 10) for step, text in (
        ("land", ssb_costs("Landing", lambda data: LANDED.format(**data))),
        ("build", ssb_costs("Full build", lambda data: f"From the landed events to a fact of {data['lines']:,} lines, with four "
                                                      "dimensions.")),
        ("increment", ssb_costs("Increment", lambda data: f"{data['extra_orders']:,} more orders with {data['extra_lines']:,} lines: "
                                                          "landed and built.")),
        ("queries", ssb_queries))),
    ("clients", "clients", clients),
    ("stars", "build", stars),
    ("growth", "growth", growth),
    ("growth", "members", members),
    ("memory", "memory", memory),
    ("fields", "fields", fields),
]
#: Steps that have peers.
COMPARED = {
    ("landing", "json"): "Landing",
    ("landing", "kafka"): "Landing from Kafka",
    **{(f"ssb-{scale}", step): f"Star Schema Benchmark, scale {scale}: {title}" for scale in (1, 10) for step, title in (
        ("land", "landing"), ("build", "full build"), ("increment", "increment"),
        ("queries", "queries, geometric mean"))},
    ("stars", "build"): "A star with history, full build",
}


def summary(kept: dict[tuple[str, str], dict]) -> str:
    """The ratios of time beside every peer, in one table."""
    rows = []
    for (file, name), title in COMPARED.items():
        step = kept.get((file, name), {})
        found: dict[str, dict[str, str]] = {}
        for cache in ("warm", "cold"):
            for side, values in ratios_of(step.get(cache, {})).items():
                found.setdefault(side, {})[cache] = median(values, "{:.2f}")
        rows += [[f"{title}, beside {side}", by.get("warm", ""), by.get("cold", "")] for side, by in found.items()]
    return "## In short\n\nStarmere's time by the other's. What stays unequal stands below each step's table.\n\n" + table(["", "warm", "cold"], rows)


def ratios_of(sides: dict) -> dict[str, list[float]]:
    """Of a step's costs by side, or of its queries by side: a ratio a round for each other side."""
    if OURS in sides:
        return {side: ratios(of(sides[OURS], "seconds"), of(runs, "seconds")) for side, runs in sides.items() if side != OURS}
    return means_of(sides) if sides else {}


def means_of(queries: dict[str, dict[str, list[float]]]) -> dict[str, list[float]]:
    """A geometric mean for each round, so that its spread is one of rounds."""
    first = next(iter(queries.values()))
    return {side: [geometric_mean(times[OURS][at] / times[side][at] for times in queries.values())
                   for at in range(len(first[side]))] for side in first if side != OURS}


def page(results: Path) -> str:
    parts, missing, measured = [], [], {}
    for file, step, text in SECTIONS:
        path = results / f"{file}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        if step in kept:
            parts.append(text(kept[step]))
            measured[file, step] = kept[step]
        else:
            missing.append(f"`{file}.json`, {step}")
    if missing:
        parts.append("## Not measured yet\n\n" + bullets(missing))
    return "\n".join([HEAD, summary(measured), *parts])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--results", type=Path, default=HERE / "results", help="folder of the files")
    arguments.add_argument("--out", type=Path, default=OUT)
    arguments.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is another one")
    options = arguments.parse_args()
    text = page(options.results)
    if not options.check:
        options.out.write_text(text)
    elif not options.out.exists() or options.out.read_text() != text:
        raise SystemExit(f"error: {options.out} is not what {options.results} make it: run bench/report.py")


if __name__ == "__main__":
    main()

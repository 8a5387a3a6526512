#!/usr/bin/env python3
"""`starmere up` for months, compressed: `make soak`.

    python scripts/soak.py target/debug/starmere FOLDER [--commits 50000] [--restarts 5] [--out FILE.json] [--draw FILE.svg]

Posts single events from many connections as fast as they are answered, until the stream has so many commits. Beside
them, a reader asks for the star all the time, and `up` is told to stop and started again every now and then. Every few
seconds it notes what must stay flat: resident memory, processor time, files and objects in the warehouse, catalog
snapshots, freshness (from a post to the row in the star), and at each start how long it took to answer.

Writes all readings to a file, draws them, and compares the last quarter of the run with the second one: what has grown
by more than is allowed is said, and the status is 1.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "python"))
from till import COUNT, Client, Failed, Server, event, processor_seconds, resident_mib, write_project  # noqa: E402

POSTERS = 16
EVERY_SECONDS = 5.0
# How much a reading may have grown from the second quarter of the run to the last one. Data files grow with the data:
# they are put together, so their number grows with its logarithm at most.
ALLOWED = {"resident MiB": 1.3, "processor, cores": 1.5, "lake files": 1.5, "model files": 1.5, "log objects": 1.3,
           "catalog snapshots": 1.5, "other objects": 1.5, "freshness, s": 1.5, "query, s": 1.5, "start, s": 1.5}
COLOUR = "#0b6e99"


class Soak:
    def __init__(self, starmere: Path, project: Path, commits: int, restarts: int) -> None:
        self.starmere, self.project, self.commits, self.restarts = starmere, project, commits, restarts
        self.readings: list[dict[str, float]] = []
        self.server: Server | None = None
        self.url = ""
        self.posted = 0
        self.queried: list[float] = []
        self.starts: list[float] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.paused = threading.Event()
        self.failures: list[str] = []

    def start(self) -> None:
        began = time.monotonic()
        self.server = Server(self.starmere, self.project, "up").__enter__()
        self.url = self.server.http
        Client(self.url).ask("SELECT 1 AS one")
        self.starts.append(time.monotonic() - began)
        self.paused.clear()

    def restart(self) -> None:
        self.paused.set()
        status = self.server.stop()
        if status != 0:
            raise Failed(f"the server ended with status {status}:\n{self.server.words()}")
        self.start()

    def post(self) -> None:
        client = url = None
        while not self.ended.is_set():
            if self.paused.is_set():
                time.sleep(0.05)
                continue
            if url != self.url:
                client, url = Client(self.url), self.url
            with self.lock:
                number = self.posted
                self.posted += 1
            while not self.ended.is_set():
                try:
                    if client.post([event(number)]) == 200:
                        break
                except OSError:
                    pass  # the server is restarted; the event is sent again, and counts once
                time.sleep(0.1)
                if url != self.url:
                    client, url = Client(self.url), self.url

    def query(self) -> None:
        client = url = None
        while not self.ended.is_set():
            time.sleep(0.25)
            if self.paused.is_set():
                continue
            if url != self.url:
                client, url = Client(self.url), self.url
            began = time.monotonic()
            try:
                client.ask("SELECT till, sum(quantity) AS quantity FROM shop.sales_v1.sales GROUP BY till")
                self.queried.append(time.monotonic() - began)
            except (Failed, OSError) as error:
                if not self.paused.is_set() and self.readings:
                    self.failures.append(str(error)[:300])

    def fresh(self) -> float:
        """Seconds from now until what has landed by now is in the star."""
        client, began = Client(self.url), time.monotonic()
        landed = client.ask("SELECT count(*) AS n FROM lake.shop.sales")[0]["n"]
        while client.ask(COUNT)[0]["n"] < landed:
            if time.monotonic() - began > 120:
                raise Failed("what landed is not in the star after two minutes: " + self.server.words())
            time.sleep(0.05)
        return time.monotonic() - began

    def read(self, before: tuple[float, float]) -> tuple[float, float]:
        kinds = {"lake files": 0, "model files": 0, "log objects": 0, "catalog snapshots": 0, "other objects": 0}
        size = 0
        for path in (self.project / "warehouse").rglob("*"):
            try:
                if not path.is_file():
                    continue
                size += path.stat().st_size
            except OSError:
                continue  # cleaned up meanwhile
            parts = path.relative_to(self.project / "warehouse").parts
            kind = ("log objects" if "_delta_log" in parts else "catalog snapshots" if parts[0] == "catalog" else
                    "lake files" if parts[0] == "lake" and path.suffix == ".parquet" else
                    "model files" if parts[0] == "models" and path.suffix == ".parquet" else "other objects")
            kinds[kind] += 1
        now, processor = time.monotonic(), processor_seconds(self.server.process)
        reading = {"at": now, "posted": self.posted, "resident MiB": resident_mib(self.server.process), **kinds,
                   "warehouse MB": size / 1e6, "freshness, s": self.fresh()}
        if processor > before[1]:
            reading["processor, cores"] = (processor - before[1]) / (now - before[0])
        asked, self.queried = self.queried, []
        if asked:
            reading["query, s"] = statistics.median(asked)
        reading["start, s"] = self.starts[-1]
        self.readings.append(reading)
        return now, processor

    def run(self) -> None:
        self.start()
        threads = [threading.Thread(target=self.post, daemon=True) for _ in range(POSTERS)]
        threads.append(threading.Thread(target=self.query, daemon=True))
        for thread in threads:
            thread.start()
        began, before, restarted = time.monotonic(), (time.monotonic(), 0.0), 0
        try:
            while self.posted < self.commits:
                time.sleep(EVERY_SECONDS)
                before = self.read(before)
                self.say(began)
                if self.posted >= self.commits * (restarted + 1) / (self.restarts + 1) and restarted < self.restarts:
                    self.restart()
                    before, restarted = (time.monotonic(), 0.0), restarted + 1
        finally:
            self.ended.set()
            for thread in threads:
                thread.join(60)
            self.server.stop()

    def say(self, began: float) -> None:
        reading = self.readings[-1]
        words = ", ".join(f"{name} {value:.4g}" for name, value in reading.items() if name not in ("at", "posted"))
        print(f"{reading['at'] - began:6.0f} s  {reading['posted']:>6} posted  {words}", flush=True)

    def growth(self) -> dict[str, tuple[float, float, float]]:
        """Of each reading: the median of the second quarter, that of the last one, and the ratio."""
        found = {}
        quarter = len(self.readings) // 4
        for name in ALLOWED:
            second = [reading[name] for reading in self.readings[quarter:2 * quarter] if name in reading]
            last = [reading[name] for reading in self.readings[3 * quarter:] if name in reading]
            if second and last:
                before, after = statistics.median(second), statistics.median(last)
                found[name] = (before, after, after / max(before, 1e-9))
        return found


def draw(readings: list[dict[str, float]], path: Path) -> None:
    """One small chart for each reading, over the number of events posted."""
    width, height, gap = 360, 130, 46
    names = [name for name in ALLOWED if any(name in reading for reading in readings)]
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width + 60}" '
             f'height="{(len(names) + 1) // 2 * (height + gap) + 20}" font-family="sans-serif" font-size="12">']
    most = max(reading["posted"] for reading in readings)
    for number, name in enumerate(names):
        x, y = 10 + number % 2 * (width + 40), 24 + number // 2 * (height + gap)
        points = [(reading["posted"], reading[name]) for reading in readings if name in reading]
        top = max(value for _, value in points) or 1
        place = " ".join(f"{x + posted / most * width:.1f},{y + height - value / top * height:.1f}"
                         for posted, value in points)
        lines += [f'<text x="{x}" y="{y - 8}">{name}: 0 to {top:.3g}</text>',
                  f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>',
                  f'<polyline points="{place}" fill="none" stroke="{COLOUR}" stroke-width="1.5"/>',
                  f'<text x="{x + width}" y="{y + height + 14}" text-anchor="end">{most:,} events</text>']
    path.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("starmere", type=Path)
    arguments.add_argument("project", type=Path, help="a new folder")
    arguments.add_argument("--commits", type=int, default=50_000, help="events, each posted alone (default: 50000)")
    arguments.add_argument("--restarts", type=int, default=5)
    arguments.add_argument("--gather-ms", type=int, default=0, help="how long posts are gathered (default: 0)")
    arguments.add_argument("--out", type=Path, help="where the readings go")
    arguments.add_argument("--draw", type=Path, help="where the charts go")
    options = arguments.parse_args()
    write_project(options.starmere, options.project, gather_ms=options.gather_ms)
    soak = Soak(options.starmere.resolve(), options.project.resolve(), options.commits, options.restarts)
    try:
        soak.run()
    finally:
        if options.out and soak.readings:
            options.out.write_text(json.dumps({"posted": soak.posted, "starts": soak.starts, "readings": soak.readings},
                                              indent=1) + "\n", encoding="utf-8")
        if options.draw and soak.readings:
            draw(soak.readings, options.draw)
    grown = []
    for name, (before, after, ratio) in soak.growth().items():
        is_flat = ratio <= ALLOWED[name]
        print(f"{name:<20}{before:12.4g}{after:12.4g}{ratio:8.2f}  {'flat' if is_flat else 'GROWS'}")
        grown += [] if is_flat else [name]
    if soak.failures:
        print(f"{len(soak.failures)} queries failed, the first one: {soak.failures[0]}")
    print(f"{len(soak.growth()) - len(grown)} passed, {len(grown) + bool(soak.failures)} failed")
    raise SystemExit(1 if grown or soak.failures else 0)


if __name__ == "__main__":
    main()

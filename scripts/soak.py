#!/usr/bin/env python3
"""`starmere up` for months, compressed: `make soak`.

    python scripts/soak.py target/release/starmere FOLDER [--commits 50000] [--restarts 12] [--out FILE.json]
        [--draw FILE.svg]

Posts single events from many connections as fast as they are answered, until the stream has so many commits. Beside
them, a reader asks for the star all the time, and `up` is told to stop and started again every now and then. Every few
seconds it notes what must stay flat: resident memory, processor time, files and objects in the warehouse, catalog
snapshots, freshness (from a post to the row in the star), and at each start how long it took to answer.

Retention goes by days, and a run takes half an hour. So days pass at each restart: while nothing runs, `starmere upkeep
--days-later` cleans up as it would so many days later. (A clock that is moved, by faketime, changes nothing: clean-up
asks the store for the time.) Objects are compared by how many there are after each of these clean-ups.

Writes all readings to a file, draws them, and compares the last quarter of the run with the second one: what has grown
by more than is allowed is said, and the status is 1.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "python"))
from till import COUNT, Client, Failed, Server, event, processor_seconds, resident_mib, write_project  # noqa: E402

POSTERS = 16
EVERY_SECONDS = 5.0
# So many days pass at each restart: more than anything is retained for.
DAYS_LATER = 40
# How much a reading may have grown from the second quarter of the run to the last one.
# The reader's query reads all rows, of which the last quarter has 7/3 of the second's.
ALLOWED = {"resident MiB": 1.3, "processor, cores": 1.5, "freshness, s": 1.5, "query, s": 1.5 * 7 / 3, "start, s": 1.5}
# The same of objects after a clean-up, and so many more. Data files grow with the data: they are put together, so their
# number grows with its logarithm at most. Commits are packed by the thousand, so a part of a thousand is always left.
ALLOWED_OBJECTS = {"lake files": (1.5, 4), "model files": (1.5, 4), "log objects": (1.3, 1000),
                   "catalog snapshots": (1.5, 2), "other objects": (1.5, 4)}
ARCHIVES = "packed logs"
# Drawn, and not judged: they grow with the data.
GROWING = {ARCHIVES: "one for each 1,000 commits", "warehouse MB": "all events are kept"}


@dataclass
class Grown:
    """A reading in the second quarter of the run, and in the last one."""
    before: float
    after: float
    ratio: float
    is_flat: bool

    @staticmethod
    def of(readings: list[dict[str, float]], name: str, ratio: float, more: float) -> "Grown | None":
        values = [reading[name] for reading in readings if name in reading]
        quarter = len(values) // 4
        if not quarter:
            return None
        before = statistics.median(values[quarter:2 * quarter])
        after = statistics.median(values[-quarter:])
        return Grown(before, after, after / max(before, 1e-9), after <= before * ratio + more)


class Soak:
    def __init__(self, starmere: Path, project: Path, commits: int, restarts: int) -> None:
        self.starmere, self.project, self.commits, self.restarts = starmere, project, commits, restarts
        self.readings: list[dict[str, float]] = []
        self.server: Server | None = None
        self.url = ""
        self.posted = 0
        # The version of the stream's table: requests that come together share a commit.
        self.committed = 0
        self.queried: list[float] = []
        self.starts: list[float] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.paused = threading.Event()
        self.failures: list[str] = []
        self.began = time.monotonic()
        self.troughs: list[dict[str, float]] = []

    def start(self) -> None:
        began = time.monotonic()
        self.server = Server(self.starmere, self.project, "up").__enter__()
        self.url = self.server.http
        Client(self.url).ask("SELECT 1 AS one")
        self.starts.append(time.monotonic() - began)
        self.paused.clear()

    def restart(self) -> None:
        """Stops `up`, lets days pass, and starts it again."""
        self.paused.set()
        status = self.server.stop()
        if status != 0:
            raise Failed(f"the server ended with status {status}:\n{self.server.words()}")
        began = time.monotonic()
        upkeep = subprocess.run([self.starmere, "--project", self.project, "upkeep", "--days-later", str(DAYS_LATER)],
                                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if upkeep.returncode != 0:
            raise Failed(f"upkeep ended with status {upkeep.returncode}:\n{upkeep.stderr}")
        now = time.monotonic()
        kinds, size = self.objects()
        self.troughs.append({"at": now - self.began, "posted": self.posted, "commits": self.committed,
                             "upkeep, s": now - began, **kinds, "warehouse MB": size / 1e6})
        self.start()

    def objects(self) -> tuple[dict[str, int], int]:
        """How many objects there are in the warehouse, by kind, and their bytes together."""
        kinds = {name: 0 for name in (*ALLOWED_OBJECTS, ARCHIVES)}
        size = 0
        for path in (self.project / "warehouse").rglob("*"):
            try:
                if not path.is_file():
                    continue
                size += path.stat().st_size
            except OSError:
                continue  # cleaned up meanwhile
            parts = path.relative_to(self.project / "warehouse").parts
            is_data = path.suffix == ".parquet"
            kind = ("log objects" if "_delta_log" in parts else ARCHIVES if "archive" in parts else
                    "catalog snapshots" if parts[0] == "catalog" else
                    "lake files" if parts[0] == "lake" and is_data else
                    "model files" if parts[0] in ("models", "ledger") and is_data else "other objects")
            kinds[kind] += 1
        return kinds, size

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
                    status, body = client.request("POST", "/v1/streams/sales/events", event(number).encode())
                    if status == 200:
                        with self.lock:
                            self.committed = max(self.committed, json.loads(body)["version"])
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
        kinds, size = self.objects()
        now, processor = time.monotonic(), processor_seconds(self.server.process)
        reading = {"at": now - self.began, "posted": self.posted, "commits": self.committed,
                   "resident MiB": resident_mib(self.server.process), **kinds, "warehouse MB": size / 1e6,
                   "freshness, s": self.fresh()}
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
        before, restarted = (time.monotonic(), 0.0), 0
        self.began = time.monotonic()
        try:
            while self.committed < self.commits:
                time.sleep(EVERY_SECONDS)
                before = self.read(before)
                self.say()
                goal = self.commits * (restarted + 1) / (self.restarts + 1)
                if self.committed >= goal and restarted < self.restarts:
                    self.restart()
                    before, restarted = (time.monotonic(), 0.0), restarted + 1
        finally:
            self.ended.set()
            for thread in threads:
                thread.join(60)
            self.server.stop()

    def say(self) -> None:
        reading = self.readings[-1]
        told = {name: value for name, value in reading.items() if name not in ("at", "posted", "commits")}
        words = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
        print(f"{reading['at']:6.0f} s  {reading['posted']:>6} posted  {reading['commits']:>6} commits  {words}",
              flush=True)

    def grown(self) -> dict[str, Grown]:
        """What has become of everything that must stay flat."""
        found = {name: Grown.of(self.readings, name, ratio, 0) for name, ratio in ALLOWED.items()}
        found |= {name: Grown.of(self.troughs, name, ratio, more) for name, (ratio, more) in ALLOWED_OBJECTS.items()}
        return {name: grown for name, grown in found.items() if grown}


# The picture.

COLUMNS, WIDTH, HEIGHT = 3, 270, 110
MARGIN_LEFT, MARGIN_TOP, GAP_X, GAP_Y = 46, 92, 60, 70
INK, FAINT, LINE, DOT, BAND = "#1a1a1a", "#8a8a8a", "#0b6e99", "#b3441e", "#eef3f6"


def steps(most: float, about: int) -> list[float]:
    """Round numbers from 0 to the first one that is not below `most`, some `about` of them."""
    size = 10 ** math.floor(math.log10(max(most, 1e-9) / about))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor * about >= most * 0.999)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:.3g}" if value < 1000 else f"{value:g}"


def panel(name: str, readings: list[dict[str, float]], troughs: list[dict[str, float]], grown: Grown | None,
          end: float, x: float, y: float) -> list[str]:
    """One chart over time: what was read, what was left after clean-ups, and what is compared."""
    points = [(reading["at"], reading[name]) for reading in readings if name in reading]
    left = [(trough["at"], trough[name]) for trough in troughs if name in trough]
    ticks = steps(max(value for _, value in points + left) or 1, 3)

    def across(at: float) -> float:
        return x + at / end * WIDTH

    def up(value: float) -> float:
        return y + HEIGHT - value / ticks[-1] * HEIGHT

    lines = [f'<text x="{x}" y="{y - 24}" font-size="13" font-weight="bold">{name}</text>']
    if grown:
        verdict = "flat" if grown.is_flat else "grows"
        lines += [f'<text x="{x}" y="{y - 9}" fill="{INK if grown.is_flat else DOT}">'
                  f'{short(grown.before)} → {short(grown.after)}, {verdict}</text>']
        compared = left if name in ALLOWED_OBJECTS else points
        for first, last in quarters(compared):
            lines.append(f'<rect x="{across(first):.1f}" y="{y}" width="{max(across(last) - across(first), 2):.1f}" '
                         f'height="{HEIGHT}" fill="{BAND}"/>')
    elif name in GROWING:
        lines.append(f'<text x="{x}" y="{y - 9}">{GROWING[name]}</text>')
    for tick in ticks:
        lines += [f'<line x1="{x}" x2="{x + WIDTH}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="#ddd"/>',
                  f'<text x="{x - 6}" y="{up(tick) + 4:.1f}" text-anchor="end" fill="{FAINT}">{short(tick)}</text>']
    for at in (trough["at"] for trough in troughs):
        lines.append(f'<line x1="{across(at):.1f}" x2="{across(at):.1f}" y1="{y}" y2="{y + HEIGHT}" stroke="{FAINT}" '
                     'stroke-width="0.7" stroke-dasharray="2 3"/>')
    in_minutes = end > 180
    for tick in steps(end / (60 if in_minutes else 1), 4):
        at = tick * (60 if in_minutes else 1)
        if at <= end:
            lines.append(f'<text x="{across(at):.1f}" y="{y + HEIGHT + 15}" text-anchor="middle" fill="{FAINT}">'
                         f'{short(tick)}{" min" if in_minutes and tick else " s" if tick else ""}</text>')
    place = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in points)
    faint = ' stroke-opacity="0.45"' if left else ""
    lines.append(f'<polyline points="{place}" fill="none" stroke="{LINE}" stroke-width="1.6"{faint}/>')
    lines += [f'<circle cx="{across(at):.1f}" cy="{up(value):.1f}" r="2.6" fill="{DOT}"/>' for at, value in left]
    return lines


def quarters(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """From when to when the second and the last quarter of these are."""
    quarter = max(len(points) // 4, 1)
    parts = [part for part in (points[quarter:2 * quarter], points[-quarter:]) if part]
    return [(part[0][0], part[-1][0]) for part in parts]


def draw(readings: list[dict[str, float]], troughs: list[dict[str, float]], grown: dict[str, Grown],
         path: Path) -> None:
    """One small chart for each reading, over time."""
    wanted = [*ALLOWED, *ALLOWED_OBJECTS, *GROWING]
    names = [name for name in wanted if any(name in reading for reading in readings)]
    end = max(reading["at"] for reading in readings)
    width = COLUMNS * WIDTH + (COLUMNS - 1) * GAP_X + 2 * MARGIN_LEFT
    height = MARGIN_TOP + -(-len(names) // COLUMNS) * (HEIGHT + GAP_Y)
    posted, commits = (max(reading[name] for reading in readings) for name in ("posted", "commits"))
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
             f'height="{height}" font-family="system-ui, sans-serif" font-size="11" fill="{INK}">',
             f'<rect width="{width}" height="{height}" fill="#fff"/>',
             f'<text x="{MARGIN_LEFT}" y="20" font-size="12">{posted:,} posts of one event each in {commits:,} '
             f'commits; {len(troughs)} restarts (dotted), at each of which {DAYS_LATER} days pass.</text>',
             f'<text x="{MARGIN_LEFT}" y="36" font-size="12">Lines: while it runs. <tspan fill="{DOT}">Dots: after the '
             'clean-up at a restart.</tspan> Shaded, and in numbers: the second and the last quarter.</text>']
    for number, name in enumerate(names):
        x = MARGIN_LEFT + number % COLUMNS * (WIDTH + GAP_X)
        y = MARGIN_TOP + number // COLUMNS * (HEIGHT + GAP_Y)
        lines += panel(name, readings, troughs, grown.get(name), end, x, y)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("starmere", type=Path)
    arguments.add_argument("project", type=Path, help="a new folder")
    arguments.add_argument("--commits", type=int, default=50_000, help="of the stream (default: 50000)")
    arguments.add_argument("--restarts", type=int, default=12, help="at least 4, to compare (default: 12)")
    arguments.add_argument("--gather-ms", type=int, default=0, help="how long posts are gathered (default: 0)")
    arguments.add_argument("--out", type=Path, help="where the readings go")
    arguments.add_argument("--draw", type=Path, help="where the charts go")
    options = arguments.parse_args()
    write_project(options.starmere, options.project, "snapshot_days: 1\n", options.gather_ms)
    soak = Soak(options.starmere.resolve(), options.project.resolve(), options.commits, options.restarts)
    try:
        soak.run()
    finally:
        grown = soak.grown()
        if options.out and soak.readings:
            written = {"posted": soak.posted, "commits": soak.committed, "starts": soak.starts,
                       "troughs": soak.troughs, "readings": soak.readings}
            options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        if options.draw and soak.readings:
            draw(soak.readings, soak.troughs, grown, options.draw)
    for name, found in grown.items():
        verdict = "flat" if found.is_flat else "GROWS"
        print(f"{name:<20}{found.before:12.4g}{found.after:12.4g}{found.ratio:8.2f}  {verdict}")
    not_flat = sum(not found.is_flat for found in grown.values())
    if soak.failures:
        print(f"{len(soak.failures)} queries failed, the first one: {soak.failures[0]}")
    missing = len(ALLOWED) + len(ALLOWED_OBJECTS) - len(grown)
    if missing:
        print(f"{missing} readings are too few to be compared")
    failed = not_flat + bool(soak.failures)
    print(f"{len(grown) - not_flat} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

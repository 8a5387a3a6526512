#!/usr/bin/env python3
"""Run benchmarks one after another, and write bench/RESULTS.md: what `make bench` does.

    python run.py target/release/starmere /tmp/bench                        # all of them
    python run.py target/release/starmere /tmp/bench --only landing,ssb     # some
    python run.py target/release/starmere /tmp/bench --only ssb --scale 10

At another scale than 1, ssb alone is run where nothing is chosen: the other parts have one size. It says beforehand what each takes. One that fails does not keep the others from running; exit 1 if one did.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from measuring import HERE


class Part(NamedTuple):
    does: str
    script: str
    minutes: int  # on two cores, some
    gigabytes: int  # of disk, at most at one time
    folder: str | None = "."


PARTS = {
    "landing": Part("landing of JSON and from Kafka, freshness, memory", "landing.py", 20, 20),
    "ssb": Part("Star Schema Benchmark: landing, full build, increment, queries", "ssb.py", 15, 4),
    "clients": Part("32 clients, over Flight and HTTP; after ssb", "clients.py", 8, 1),
    "stars": Part("full build of a star with history, ten million orders", "stars.py", 10, 4, "stars"),
    "growth": Part("increments after more and more history; a dimension of five million members", "growth.py", 12, 4, "growth"),
    "memory": Part("memory of builds", "memory.py", 12, 4, "memory"),
    "fields": Part("fields of a payload; compiles a test", "fields.py", 5, 0, None),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("starmere", type=Path, help="the binary, such as target/release/starmere")
    arguments.add_argument("work_dir", type=Path, help="folder for data, warehouses and logs")
    arguments.add_argument("--only", default="", help=f"some of {', '.join(PARTS)}, with commas or spaces between them")
    arguments.add_argument("--scale", type=float, default=1, help="of ssb: 1 is six million lines")
    options = arguments.parse_args()
    chosen = options.only.replace(",", " ").split() or (list(PARTS) if options.scale == 1 else ["ssb"])
    if unknown := set(chosen) - set(PARTS):
        arguments.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    parts = {name: part for name, part in PARTS.items() if name in chosen}
    if "ssb" in parts:
        larger = max(1, round(options.scale))
        parts["ssb"] = parts["ssb"]._replace(minutes=parts["ssb"].minutes * larger, gigabytes=parts["ssb"].gigabytes * larger)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    say_beforehand(parts, options.work_dir)
    failed = [name for at, (name, part) in enumerate(parts.items(), 1)
              if not run(f"[{at}/{len(parts)}] {name}", part, command_of(part, options))]
    subprocess.run([sys.executable, str(HERE / "report.py")], check=True)
    print(f"bench: {HERE / 'RESULTS.md'} is written", file=sys.stderr)
    if failed:
        raise SystemExit(f"error: failed: {', '.join(failed)}")


def say_beforehand(parts: dict[str, Part], folder: Path) -> None:
    for name, part in parts.items():
        print(f"bench: {name:8} some {part.minutes:3} min, {part.gigabytes:3} GB of disk: {part.does}", file=sys.stderr)
    free = shutil.disk_usage(folder).free / 1e9
    print(f"bench: some {sum(part.minutes for part in parts.values())} min altogether; {folder} has {free:.0f} GB free. "
          "Leave the machine alone meanwhile.", file=sys.stderr)
    if free < (most := max(part.gigabytes for part in parts.values())):
        raise SystemExit(f"error: {most} GB are needed: make room, or choose another folder by BENCH=")


def command_of(part: Part, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, str(HERE / part.script), str(options.starmere.resolve())]
    if part.folder:
        command.append(str(options.work_dir.resolve() / part.folder))
    if part.script == "ssb.py":
        command.append(f"{options.scale:g}")
    return command


def run(title: str, part: Part, command: list[str]) -> bool:
    print(f"bench: {title}: {part.does}", file=sys.stderr)
    began = time.monotonic()
    status = subprocess.run(command).returncode
    print(f"bench: {title}: {'done' if status == 0 else f'FAILED with {status}'} after "
          f"{(time.monotonic() - began) / 60:.1f} min", file=sys.stderr)
    return status == 0


if __name__ == "__main__":
    main()

"""How every benchmark measures: on which cores, from which state of the page cache, how often, and what a process took.

All of a benchmark runs on the same cores: `pin` takes them once, and every process that is started later has them as
well. Starmere and its peers count the cores that they may run on, so each has as many threads as there are cores.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterable, NamedTuple

HERE = Path(__file__).resolve().parent
#: Every side has so many cores, where the machine has as many.
CORES = 2
#: Each figure is the median of so many runs.
REPEATS = 3


class Failed(Exception):
    """A step that could not be measured; the message says why."""


class Cost(NamedTuple):
    """What a process took."""
    seconds: float
    cpu_seconds: float
    peak_mb: float


def pin() -> list[int]:
    """Takes the cores for this process and for all that it starts; which."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    return cores


def threads() -> int:
    """As many as there are cores for this process."""
    return len(os.sched_getaffinity(0))


def measure(command: list[str], log: Path) -> Cost:
    launcher = [sys.executable, str(HERE / "measure.py"), str(log), *command]
    cost = json.loads(subprocess.run(launcher, stdout=subprocess.PIPE, check=True).stdout)
    status = cost.pop("status")
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise Failed(f"`{' '.join(command)}` ended with {status}:\n{tail}")
    return Cost(**cost)


def peak_mb(process: int) -> float | None:
    """The peak memory of a running process, where the system says it (Linux)."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return None
    return int(found.group(1)) / 1024 if found else None


# The page cache.


def files_below(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        yield from (file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def read_once(*paths: Path) -> None:
    """Into the page cache."""
    for path in files_below(paths):
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass


def evict(*paths: Path) -> None:
    """Out of the page cache; the kernel keeps pages that are not written yet, so `os.sync` comes first."""
    for path in files_below(paths):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


#: What is done to the files that a run reads, before it.
CACHES: dict[str, Callable[..., None]] = {"warm": read_once, "cold": evict}


# Runs.


def in_rounds(name: str, sides: dict[str, Callable[[], Cost]], prepare: Callable[[str], list[Path]],
              repeats: int = REPEATS, caches: Iterable[str] = CACHES) -> dict[str, dict[str, list[dict]]]:
    """Costs by state of the cache and side: {"warm": {"Starmere": [a cost a round, …], …}, "cold": …}.

    A round is one run of every side, so that the runs of a round share the machine's mood; every other round goes through
    the sides in the opposite order. `prepare` makes ready what a side begins with, and returns the files that the side is to
    find in the page cache, or on the disk only. No side pays for what the one before it has not written yet.
    """
    found: dict[str, dict[str, list[dict]]] = {}
    for cache in caches:
        found[cache] = {side: [] for side in sides}
        for number in range(repeats):
            for side in list(sides)[::-1 if number % 2 else 1]:
                paths = prepare(side)
                os.sync()
                CACHES[cache](*paths)
                cost = sides[side]()
                found[cache][side].append(rounded(cost._asdict()))
                progress(f"{name}, {cache}, round {number + 1} of {repeats}: {side} {cost.seconds:.2f} s")
    return found


def rounded(cost: dict) -> dict:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in cost.items()}


def progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in files_below([folder])) / 1e6

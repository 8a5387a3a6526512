#!/usr/bin/env python3
"""Measure how long it takes to find fields in a payload: an ignored test of the crate `lake`, in an optimised build.

    python fields.py target/release/starmere

The test prints a line for each kind of payload; they are kept in bench/results/fields.json, and `report.py` prints them.
"""

import argparse
import re
import subprocess
from pathlib import Path

from keeping import RESULTS, keep
from measuring import HERE, pin

TEST = ["cargo", "test", "--workspace", "--release", "--lib", "throughput", "--", "--ignored", "--nocapture"]
LINE = re.compile(r"^(?P<payload>[\w, ]+): (?P<bytes>\d+) bytes, (?P<paths>\d+) paths in one pass: (?P<ns>\d+) ns, "
                  r"(?P<mb_per_s>\d+) MB/s(?:; a call for each path takes (?P<one_call_each>[\d.]+) times that)?$", re.M)


def cases(said: str) -> list[dict]:
    return [{name: value if name == "payload" else value and float(value) for name, value in found.groupdict().items()}
            for found in LINE.finditer(said)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("binary", type=Path, help="of the same build; its version is kept")
    arguments.add_argument("--results", type=Path, default=RESULTS / "fields.json", help="file to keep them in")
    options = arguments.parse_args()
    pin()
    done = subprocess.run(TEST, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = cases(done.stdout)
    if done.returncode != 0 or not found:
        raise SystemExit(f"error: fields: `{' '.join(TEST)}` ended with {done.returncode}:\n{done.stdout[-3000:]}")
    keep(options.results, options.binary.resolve(), {"fields": {
        "cases": found, "unequal": ["No peer. The best of twenty runs of two thousand payloads, all in the processor's caches."]}})


if __name__ == "__main__":
    main()

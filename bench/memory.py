#!/usr/bin/env python3
"""What `build` and `verify` hold in memory, beside what they may: `build_memory_mib`.

    python memory.py target/release/starmere FOLDER [--gigabytes 2] [--mib 256 1024]

Lands so many gigabytes of events once: sales, a dimension of 200,000 customers with history, a roll-up by their city and
a SQL model. Then builds and verifies all of it anew with each setting. Of each command it keeps the time, and the most
that was resident: in all, and without pages of files, which the kernel drops when it needs room. What is resident in all
may be a quarter more than the setting. Results are kept in bench/results/memory.json; `report.py` prints them.
"""

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from keeping import RESULTS, keep
from measuring import REPEATS, pin, progress

CUSTOMERS = 200_000
ALLOWED = 1.25

FILES = {
    "streams/sales.yaml": """
stream: sales
domain: shop
envelope: { id: id, constant_type: sold, time: at }
events:
  sold:
    versions:
      1:
        fields:
          till: { type: string }
          quantity: { type: int }
          customer: { type: string, required: true }
          city: { type: string }
""",
    "domains/shop/models/customer.yaml": """
dimension: customer
key: customer
from: [{ stream: sales, event: sold, as: patch }]
attributes: { city: { type: string, history: version } }
""",
    "domains/shop/models/sales.yaml": """
fact: sales
from: { stream: sales, event: sold }
grain: event_id
dimensions: { customer: { dimension: customer, key: customer } }
degenerate: { till: {} }
measures: { quantity: {} }
""",
    "domains/shop/models/by_city.yaml": """
rollup: by_city
of: sales
by: { city: customer.city }
measures: [quantity]
count: sales
""",
    "domains/shop/models/tills.yaml": """
sql: tills
select: SELECT till, count(*) AS sales, sum(quantity) AS quantity FROM sales GROUP BY till
grain: till
""",
}


def settings(folder: Path, mib: int) -> None:
    (folder / "starmere.yaml").write_text(f"project: memory\nwarehouse: ./warehouse\nbuild_memory_mib: {mib}\n")


def events(path: Path, size: int) -> int:
    """Events of some 530 bytes, in no order of time; how many."""
    pick, written, number = random.Random(3), 0, 0
    with open(path, "w", encoding="ascii") as file:
        while written < size:
            note = f"{pick.getrandbits(60):x}{'x' * 110}" * 3
            written += file.write(
                f'{{"id":"ev-{number:010d}-{pick.getrandbits(32):08x}","at":"2024-03-{pick.randint(1, 28):02}'
                f'T{pick.randrange(24):02}:{pick.randrange(60):02}:{pick.randrange(60):02}Z","till":"t{number % 500}",'
                f'"quantity":{1 + number % 9},"customer":"c{pick.randrange(CUSTOMERS)}",'
                f'"city":"city {pick.randrange(100)}","note":"{note}"}}\n')
            number += 1
    return number


def watched(binary: Path, folder: Path, *arguments: str) -> dict:
    """The command's time and memory: looked at every 20 ms, and the kernel's own highest reading of all that is resident."""
    log = folder / "log.txt"
    with open(log, "wb") as output:
        began = time.monotonic()
        command = [binary, "--project", folder, "--quiet", *arguments]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        resident = own = 0
        while process.poll() is None:
            for line in status_of(process.pid):
                name, _, value = line.partition(":")
                if name == "VmHWM":
                    resident = max(resident, int(value.split()[0]))
                elif name == "RssAnon":
                    own = max(own, int(value.split()[0]))
            time.sleep(0.02)
    seconds = time.monotonic() - began
    if process.returncode != 0:
        print(f"`{' '.join(map(str, command))}` failed:\n{log.read_text()[-2000:]}", file=sys.stderr)
    return {"status": process.returncode, "seconds": round(seconds, 1), "resident_mib": resident >> 10,
            "without_files_mib": own >> 10}


def status_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--gigabytes", type=float, default=2)
    arguments.add_argument("--mib", type=int, nargs="+", default=[256, 1024])
    arguments.add_argument("--keep", action="store_true", help="leave the landed events in the folder, and use what is there")
    arguments.add_argument("--repeats", type=int, default=REPEATS, help="how many runs each figure is the median of")
    arguments.add_argument("--results", type=Path, default=RESULTS / "memory.json", help="file to keep them in")
    options = arguments.parse_args()
    pin()
    binary, lake = options.binary.resolve(), options.folder / "lake"
    size = int(options.gigabytes * 1e9)
    if not lake.exists():
        for name, text in FILES.items():
            (lake / name).parent.mkdir(parents=True, exist_ok=True)
            (lake / name).write_text(text.lstrip())
        settings(lake, 1024)
        file = options.folder / "events.jsonl"
        progress(f"memory: {events(file, size)} events of {size / 1e9:.1f} GB")
        watched(binary, lake, "ingest", "sales", "--file", str(file))
        file.unlink()
    results = [{"command": command, "setting_mib": mib, "runs": []} for mib in options.mib for command in ("build", "verify")]
    for number, mib in itertools.product(range(options.repeats), options.mib):
        folder = options.folder / f"with-{mib}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(lake, folder)
        settings(folder, mib)
        for result in (result for result in results if result["setting_mib"] == mib):
            cost = watched(binary, folder, result["command"])
            if cost.pop("status") != 0:
                sys.exit(1)
            result["runs"].append({**cost, "share": round(cost["resident_mib"] / mib, 2)})
            progress(f"memory, round {number + 1} of {options.repeats}: {result['command']} with {mib} MiB: "
                     f"{cost['seconds']:.1f} s, resident {cost['resident_mib']} MiB ({ALLOWED} of the setting are allowed)")
        shutil.rmtree(folder)
    if not options.keep:
        shutil.rmtree(lake)
    keep(options.results, binary, {"memory": {
        "gigabytes": options.gigabytes, "allowed": ALLOWED, "costs": results,
        "unequal": ["No peer. Files are in the page cache, and pages of files count as resident."]}})


if __name__ == "__main__":
    main()

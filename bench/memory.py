#!/usr/bin/env python3
"""What `build` and `verify` hold in memory, beside what they may: `build_memory_mib`.

    python memory.py target/release/starmere FOLDER [--gigabytes 2] [--mib 256 1024]

Lands so many gigabytes of events once: sales, a dimension of 200,000 customers with history, a roll-up by their city and
a SQL model. Then builds and verifies all of it anew with each setting. Of each command it tells the time, and the most
that was resident: in all, and without pages of files, which the kernel drops when it needs room. What is resident in all
may be a quarter more than the setting. Writes results/memory.json.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
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
    options = arguments.parse_args()
    binary, lake = options.binary.resolve(), options.folder / "lake"
    size = int(options.gigabytes * 1e9)
    if not lake.exists():
        for name, text in FILES.items():
            (lake / name).parent.mkdir(parents=True, exist_ok=True)
            (lake / name).write_text(text.lstrip())
        settings(lake, 1024)
        file = options.folder / "events.jsonl"
        print(f"{events(file, size)} events of {size / 1e9:.1f} GB", flush=True)
        watched(binary, lake, "ingest", "sales", "--file", str(file))
        file.unlink()
    results = []
    for mib in options.mib:
        folder = options.folder / f"with-{mib}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(lake, folder)
        settings(folder, mib)
        for command in ("build", "verify"):
            cost = watched(binary, folder, command)
            cost = {"command": command, "setting_mib": mib, **cost,
                    "share": round(cost["resident_mib"] / mib, 2)}
            results.append(cost)
            print(f"{command:>7} with {mib} MiB: {cost['seconds']:.1f} s, resident {cost['resident_mib']} MiB "
                  f"({cost['share']} of the setting; {ALLOWED} are allowed), {cost['without_files_mib']} of them not of files",
                  flush=True)
        shutil.rmtree(folder)
    if not options.keep:
        shutil.rmtree(lake)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results/memory.json").write_text(json.dumps({"gigabytes": options.gigabytes, "costs": results}, indent=2) + "\n")
    if any(cost["status"] != 0 for cost in results):
        sys.exit(1)


if __name__ == "__main__":
    main()

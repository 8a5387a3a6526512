"""How the cost of an increment grows with the history before it, and what a large dimension costs.

    python growth.py target/release/starmere /tmp/growth                 # 1x, 10x, 100x; a dimension of 5 million
    python growth.py target/release/starmere /tmp/growth --steps members

An increment is of one size whatever the history: new orders, a hundredth of them late, and moves of customers now. It is built
several times, each in a copy of what was there before it, and the medians of time and peak memory are given as ratios to those
after the smallest history: at 10 times the history, 1.3 of both is the aim, at 100 times it 2. Customers are as many times more as
orders; the last history has 100 times the orders, of as many customers as the smallest.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, astuple, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path


HERE = Path(__file__).resolve().parent
BASE = 100_000
INCREMENT = 10_000
REPEATED = 7
# How many times the orders, and the customers.
HISTORIES = (("1x", 1, 1), ("10x", 10, 10), ("100x", 100, 100), ("100x of orders", 100, 1))
BEGIN = datetime(2020, 1, 1, tzinfo=timezone.utc)

FILES = {
    "starmere.yaml": """
project: growth
warehouse: ./warehouse
sources:
  orders: { stream: orders, files: events/orders }
  customers: { stream: customers, files: events/customers }
""",
    "streams/orders.yaml": """
stream: orders
domain: sales
envelope: { id: id, constant_type: placed, time: at }
events:
  placed:
    versions: { 1: { fields: { order_id: { path: id, type: string }, customer: { type: bigint }, product: { type: int }, amount: { type: "decimal(12,2)" } } } }
""",
    "streams/customers.yaml": """
stream: customers
domain: sales
envelope: { id: id, constant_type: moved, time: at }
events:
  moved:
    versions: { 1: { fields: { customer: { type: bigint }, city: { type: string }, tier: { type: string } } } }
""",
    "domains/sales/models/customer.yaml": """
dimension: customer
key: customer
from: [{ stream: customers, event: moved, as: patch }]
attributes: { city: { type: string, history: version }, tier: { type: string, history: version } }
inferred_from: [sales.orders]
""",
    "domains/sales/models/orders.yaml": """
fact: orders
from: { stream: orders, event: placed }
grain: order_id
dimensions: { customer: { dimension: customer, key: customer }, day: { dimension: date, key: CAST(occurred_at AS DATE) } }
degenerate: { order_id: {}, product: {} }
measures: { amount: {} }
""",
    "domains/sales/products/orders_v1.yaml": """
product: orders
version: 1
ports:
  orders:
    model: orders
    primary_key: [order_id]
    foreign_keys: { customer_key: sales.orders_v1.customer }
    columns:
      order_id: { type: string, nullable: false }
      customer_key: { type: bigint, nullable: false }
      amount: { type: "decimal(12,2)" }
  customer:
    model: customer
    primary_key: [customer_key]
    columns: { customer_key: { type: bigint, nullable: false }, city: { type: string } }
  by_city:
    model: by_city
    columns: { city: { type: string }, month: { type: string }, amount: { type: "decimal(22,2)" }, orders: { type: bigint } }
""",
    "domains/sales/models/date.yaml": "dimension: date\ncalendar: { from: 2020-01-01, to: 2025-12-31 }\n",
    "domains/sales/models/by_city.yaml": """
rollup: by_city
of: orders
by: { city: customer.city, month: day.year_month }
count: orders
""",
}


def at(second: float) -> str:
    return (BEGIN + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")


def project(folder: Path, with_facts: bool) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in FILES.items():
        if not with_facts and name.startswith("domains/") and not name.endswith("customer.yaml"):
            continue
        if not with_facts:
            text = text.replace("inferred_from: [sales.orders]\n", "")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "events/orders").mkdir(parents=True, exist_ok=True)
    (folder / "events/customers").mkdir(parents=True, exist_ok=True)


def orders(path: Path, number: int, first: int, customers: int, begin: float, end: float, pick: random.Random) -> None:
    step = (end - begin) / number
    with path.open("w") as file:
        for place in range(number):
            late = begin * pick.random() if place % 100 == 99 and begin > 0 else begin + place * step
            file.write(
                f'{{"id":"o{first + place}","at":"{at(late)}","customer":{pick.randrange(customers)},'
                f'"product":{place % 1000},"amount":"{place % 900 + 1}.50"}}\n'
            )


def moves(path: Path, ids: range, first: int, begin: float, end: float, pick: random.Random) -> None:
    step = (end - begin) / max(1, len(ids))
    with path.open("w") as file:
        for place, customer in enumerate(ids):
            file.write(
                f'{{"id":"m{first + place}","at":"{at(begin + place * step)}","customer":{customer},'
                f'"city":"city {pick.randrange(500)}","tier":"{"abc"[pick.randrange(3)]}"}}\n'
            )


@dataclass
class Cost:
    seconds: float
    cpu_seconds: float
    peak_mb: float


def run(binary: Path, folder: Path, *arguments: str) -> Cost:
    log = folder / "log.txt"
    command = [str(binary), "--project", str(folder), "--quiet", *arguments]
    launcher = [sys.executable, str(HERE / "measure.py"), str(log), *command]
    cost = json.loads(subprocess.run(launcher, stdout=subprocess.PIPE, check=True).stdout)
    if cost.pop("status") != 0:
        sys.exit(f"`{' '.join(command)}` failed:\n{log.read_text()[-2000:]}")
    return Cost(**cost)


def repeated(binary: Path, folder: Path) -> Cost:
    """The medians of a build in copies of the project, whose files are links: none of them is ever written again."""
    costs = []
    for _ in range(REPEATED):
        copy = folder.with_name(folder.name + "-copy")
        shutil.copytree(folder, copy, copy_function=os.link, ignore=shutil.ignore_patterns("events", "log.txt"))
        costs.append(run(binary, copy, "build"))
        shutil.rmtree(copy)
    return Cost(*(statistics.median(values) for values in zip(*map(astuple, costs))))


def growth(binary: Path, root: Path) -> dict:
    results = {}
    for name, times, customers_times in HISTORIES:
        number, folder = BASE * times, root / f"growth-{times}"
        pick = random.Random(times)
        customers = BASE * customers_times // 20
        year = 365 * 86400.0
        project(folder, with_facts=True)
        moves(folder / "events/customers/0.jsonl", range(customers), 0, 0, year / 12, pick)
        part = max(1, number // 8)
        for index in range(8):
            begin, end = year * index / 8, year * (index + 1) / 8
            orders(folder / f"events/orders/{index}.jsonl", part, index * part, customers, begin, end, pick)
        run(binary, folder, "ingest", "--once")
        full = run(binary, folder, "build")
        now = year
        ids = range(0, customers, max(1, customers // (INCREMENT // 20)))
        moves(folder / "events/customers/1.jsonl", ids, 10_000_000, now, now + 86400, pick)
        orders(folder / "events/orders/8.jsonl", INCREMENT, 100_000_000, customers, now, now + 86400, pick)
        run(binary, folder, "ingest", "--once")
        increment = repeated(binary, folder)
        results[name] = {"orders": number, "customers": customers, "full": asdict(full), "increment": asdict(increment)}
        print(f"{name:>15}  {number:>8} orders, {customers:>6} customers: full {full.seconds:.1f} s, {full.peak_mb:.0f} MB; "
              f"increment {increment.seconds:.2f} s, {increment.peak_mb:.0f} MB", flush=True)
        shutil.rmtree(folder)
    one = results["1x"]["increment"]
    for name, *_ in HISTORIES[1:]:
        of = results[name]["increment"]
        of["time ratio"] = round(of["seconds"] / one["seconds"], 2)
        of["memory ratio"] = round(of["peak_mb"] / one["peak_mb"], 2)
        print(f"{name}: an increment takes {of['time ratio']} of the time and {of['memory ratio']} of the memory")
    return results


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet"))


def members(binary: Path, root: Path, number: int) -> dict:
    folder, pick = root / "members", random.Random(5)
    project(folder, with_facts=False)
    part = number // 10
    for index in range(10):
        ids = range(index * part, (index + 1) * part)
        moves(folder / f"events/customers/{index}.jsonl", ids, index * part, 0, 86400.0, pick)
    run(binary, folder, "ingest", "--once")
    full = run(binary, folder, "build")
    rows = folder / "warehouse/models/sales/customer"
    before = {file: file.stat().st_size for file in rows.rglob("*.parquet")}
    results = {"members": number, "full": asdict(full), "batches": []}
    print(f"{number} members: full {full.seconds:.1f} s, {full.peak_mb:.0f} MB", flush=True)
    for batch in range(3):
        ids = [pick.randrange(number) for _ in range(number // 100)]
        path = folder / f"events/customers/{10 + batch}.jsonl"
        moves(path, ids, 1_000_000_000 + batch * number, 86400.0 * (batch + 2), 86400.0 * (batch + 3), pick)
        run(binary, folder, "ingest", "--once")
        cost = run(binary, folder, "build")
        files = {file: file.stat().st_size for file in rows.rglob("*.parquet")}
        written = sum(size for file, size in files.items() if file not in before)
        share = written / sum(before.values())
        before = files
        results["batches"].append({**asdict(cost), "written": round(share, 3)})
        print(f"  1% changed: {cost.seconds:.1f} s, {cost.peak_mb:.0f} MB, {share:.2f} of its size written", flush=True)
    shutil.rmtree(folder)
    return results


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--steps", default="growth,members")
    arguments.add_argument("--members", type=int, default=5_000_000)
    options = arguments.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    if "growth" in options.steps:
        results["growth"] = growth(options.binary.resolve(), options.folder)
    if "members" in options.steps:
        results["members"] = members(options.binary.resolve(), options.folder, options.members)
    json.dump(results, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()

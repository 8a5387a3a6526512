"""How the cost of an increment grows with the history before it, and what a large dimension costs.

    python growth.py target/release/starmere /tmp/growth                 # 1x, 10x, 100x; a dimension of 5 million
    python growth.py target/release/starmere /tmp/growth --steps members

An increment is of one size whatever the history: new orders, a hundredth of them late, and moves of customers now. It is built
several times, each in a copy of what was there before it, and the medians of time and peak memory are given as ratios to those
after the smallest history: at 10 times the history, 1.3 of both is the aim, at 100 times it 2. Customers are as many times more as
orders; the last history has 100 times the orders, of as many customers as the smallest. Results are kept in
bench/results/growth.json; `report.py` prints them.
"""

import argparse
import os
import random
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

from keeping import RESULTS, keep
from measuring import REPEATS, Cost, Failed, measure, pin, progress, rounded

BASE = 100_000
INCREMENT = 10_000
REPEATED = 7
BATCHES = 3
UNEQUAL = ["No peer: the figures are ours, beside ours with less history. Files are in the page cache."]
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


def run(binary: Path, folder: Path, *arguments: str) -> Cost:
    return measure([str(binary), "--project", str(folder), "--quiet", *arguments], folder / "log.txt")


def kept(cost: Cost) -> dict:
    return rounded(cost._asdict())


def full_builds(binary: Path, folder: Path) -> list[dict]:
    """Of what has landed, each from nothing."""
    costs = []
    for _ in range(REPEATS):
        for built in ("models", "catalog"):
            shutil.rmtree(folder / "warehouse" / built, ignore_errors=True)
        costs.append(kept(run(binary, folder, "build")))
    return costs


def repeated(binary: Path, folder: Path) -> list[dict]:
    """Builds in copies of the project, whose files are links: none of them is ever written again."""
    costs = []
    for _ in range(REPEATED):
        copy = folder.with_name(folder.name + "-copy")
        shutil.copytree(folder, copy, copy_function=os.link, ignore=shutil.ignore_patterns("events", "log.txt"))
        costs.append(kept(run(binary, copy, "build")))
        shutil.rmtree(copy)
    return costs


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
        full = full_builds(binary, folder)
        now = year
        ids = range(0, customers, max(1, customers // (INCREMENT // 20)))
        moves(folder / "events/customers/1.jsonl", ids, 10_000_000, now, now + 86400, pick)
        orders(folder / "events/orders/8.jsonl", INCREMENT, 100_000_000, customers, now, now + 86400, pick)
        run(binary, folder, "ingest", "--once")
        increment = repeated(binary, folder)
        results[name] = {"orders": number, "customers": customers, "full": full, "increment": increment}
        progress(f"growth, {name}: full {full[0]['seconds']:.1f} s; increment {increment[0]['seconds']:.2f} s")
        shutil.rmtree(folder)
    return {"increment": INCREMENT, "histories": results, "unequal": UNEQUAL}


def members(binary: Path, root: Path, number: int) -> dict:
    folder, pick = root / "members", random.Random(5)
    project(folder, with_facts=False)
    part = number // 10
    for index in range(10):
        ids = range(index * part, (index + 1) * part)
        moves(folder / f"events/customers/{index}.jsonl", ids, index * part, 0, 86400.0, pick)
    run(binary, folder, "ingest", "--once")
    full = full_builds(binary, folder)
    rows = folder / "warehouse/models/sales/customer"
    before = {file: file.stat().st_size for file in rows.rglob("*.parquet")}
    results = {"members": number, "full": full, "batches": [],
               "unequal": ["No peer. The batches come one after another; files are in the page cache."]}
    progress(f"members: full {full[0]['seconds']:.1f} s")
    for batch in range(BATCHES):
        ids = [pick.randrange(number) for _ in range(number // 100)]
        path = folder / f"events/customers/{10 + batch}.jsonl"
        moves(path, ids, 1_000_000_000 + batch * number, 86400.0 * (batch + 2), 86400.0 * (batch + 3), pick)
        run(binary, folder, "ingest", "--once")
        cost = run(binary, folder, "build")
        files = {file: file.stat().st_size for file in rows.rglob("*.parquet")}
        written = sum(size for file, size in files.items() if file not in before)
        share = written / sum(before.values())
        before = files
        results["batches"].append({**kept(cost), "written": round(share, 3)})
        progress(f"members, 1% changed: {cost.seconds:.1f} s")
    shutil.rmtree(folder)
    return results


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--steps", default="growth,members")
    arguments.add_argument("--members", type=int, default=5_000_000)
    arguments.add_argument("--results", type=Path, default=RESULTS / "growth.json", help="file to keep them in")
    options = arguments.parse_args()
    pin()
    folder, binary = options.folder.resolve(), options.binary.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if "growth" in options.steps.split(","):
            keep(options.results, binary, {"growth": growth(binary, folder)})
        if "members" in options.steps.split(","):
            keep(options.results, binary, {"members": members(binary, folder, options.members)})
    except Failed as failure:
        raise SystemExit(f"error: growth: {failure}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Generate the Star Schema Benchmark, as the events it might have come from and as a plain star.

    python ssb_generate.py 1 /tmp/ssb-1        # scale factor 1: 1,500,000 orders, about 6,000,000 lines

    OUT/events/{customers,suppliers,parts,orders}/*.jsonl     what Starmere and DuckDB land
    OUT/increment/events/orders/*.jsonl                       the next 1% of orders
    OUT/parquet/{lineorder,customer,supplier,part,date}.parquet        the star itself, for DuckDB
    OUT/manifest.json                                         written last: what is there

Values follow O'Neil, O'Neil and Chen, "Star Schema Benchmark" (revision 3) and its dbgen: cardinalities,
hierarchies, price formulas, sparse order keys, customers of whom a third never order. Three things differ:
random numbers come from numpy (the data is deterministic, but not dbgen's); orders are in order of time, as
events are; and the calendar says `1994-01` for d_yearmonth and ISO weeks for d_weeknuminyear, as Starmere's
generated calendar does. Prices are integers, in cents. The plain star is LZ4_RAW, as Starmere's models are.
"""

import argparse
import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy
import polars
import pyarrow
import pyarrow.parquet

SEED = 19_940_101
FIRST_DAY, LAST_ORDER_DAY, LAST_DAY = map(numpy.datetime64, ("1992-01-01", "1998-08-02", "1998-12-31"))
INCREMENT, INCREMENT_DAYS = 0.01, 24  # the next 1% of orders, at the pace of the others
EVENTS_PER_FILE = 100_000
PARQUET_ROW_GROUP = 122_880
PARQUET_CODEC = "lz4"  # pyarrow's name for LZ4_RAW
ORDERS_AT_ONCE = 1_500_000  # what is held in memory

NATIONS = {  # nation -> region, in dbgen's order
    "ALGERIA": "AFRICA", "ARGENTINA": "AMERICA", "BRAZIL": "AMERICA", "CANADA": "AMERICA", "EGYPT": "MIDDLE EAST",
    "ETHIOPIA": "AFRICA", "FRANCE": "EUROPE", "GERMANY": "EUROPE", "INDIA": "ASIA", "INDONESIA": "ASIA",
    "IRAN": "MIDDLE EAST", "IRAQ": "MIDDLE EAST", "JAPAN": "ASIA", "JORDAN": "MIDDLE EAST", "KENYA": "AFRICA",
    "MOROCCO": "AFRICA", "MOZAMBIQUE": "AFRICA", "PERU": "AMERICA", "CHINA": "ASIA", "ROMANIA": "EUROPE",
    "SAUDI ARABIA": "MIDDLE EAST", "VIETNAM": "ASIA", "RUSSIA": "EUROPE", "UNITED KINGDOM": "EUROPE",
    "UNITED STATES": "AMERICA",
}
SEGMENTS = ["AUTOMOBILE", "BUILDING", "FURNITURE", "MACHINERY", "HOUSEHOLD"]
PRIORITIES = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECI", "5-LOW"]
SHIP_MODES = ["REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"]
COLORS = """almond antique aquamarine azure beige bisque black blanched blue blush brown burlywood burnished
    chartreuse chiffon chocolate coral cornflower cornsilk cream cyan dark deep dim dodger drab firebrick floral
    forest frosted gainsboro ghost goldenrod green grey honeydew hot indian ivory khaki lace lavender lawn lemon
    light lime linen magenta maroon medium metallic midnight mint misty moccasin navajo navy olive orange orchid
    pale papaya peach peru pink plum powder puff purple red rose rosy royal saddle salmon sandy seashell sienna
    sky slate smoke snow spring steel tan thistle tomato turquoise violet wheat white yellow""".split()
TYPES = [f"{a} {b} {c}" for a in ("STANDARD", "SMALL", "MEDIUM", "LARGE", "ECONOMY", "PROMO")
         for b in ("ANODIZED", "BURNISHED", "PLATED", "POLISHED", "BRUSHED")
         for c in ("TIN", "NICKEL", "BRASS", "STEEL", "COPPER")]
CONTAINERS = [f"{a} {b}" for a in ("SM", "LG", "MED", "JUMBO", "WRAP")
              for b in ("CASE", "BOX", "BAG", "JAR", "PKG", "PACK", "CAN", "DRUM")]


def random_numbers(table: str) -> numpy.random.Generator:
    """Each table has its own sequence, so that one can change without the others."""
    return numpy.random.default_rng([SEED, *table.encode()])


def pick(words: list[str], indexes: numpy.ndarray) -> pyarrow.Array:
    return pyarrow.array(words).take(pyarrow.array(indexes))


def hex_ids(random: numpy.random.Generator, count: int) -> pyarrow.Array:
    """Opaque ids of 128 bits, as producers make them."""
    digits = random.bytes(16 * count).hex().encode()
    return pyarrow.array(numpy.frombuffer(digits, dtype="S32")).cast(pyarrow.string())


def times(seconds: numpy.ndarray) -> pyarrow.Array:
    text = numpy.datetime_as_string(seconds.astype("datetime64[s]"), timezone="UTC")
    return pyarrow.array(text).cast(pyarrow.string())


def part_price(part: numpy.ndarray) -> numpy.ndarray:
    return 90_000 + (part // 10) % 20_001 + (part % 1000) * 100


class Counts(NamedTuple):
    customers: int
    suppliers: int
    parts: int
    orders: int
    extra_orders: int


def counts_at(scale: float) -> Counts:
    parts = 200_000 * (1 + math.floor(math.log2(scale))) if scale >= 1 else max(200, int(200_000 * scale))
    orders = max(100, int(1_500_000 * scale))
    return Counts(max(30, int(30_000 * scale)), max(20, int(2_000 * scale)), parts, orders, int(orders * INCREMENT))


# The tables. Each is a pyarrow table with the benchmark's names.


def people(prefix: str, title: str, count: int) -> pyarrow.Table:
    """Customers and suppliers: the same columns, but for the customers' market segment."""
    random = random_numbers(title)
    keys = numpy.arange(1, count + 1, dtype=numpy.int32)
    nations = random.integers(0, len(NATIONS), count)
    cities = nations * 10 + random.integers(0, 10, count)
    city_names = [f"{nation[:9]:<9}{digit}" for nation in NATIONS for digit in range(10)]
    alphabet = numpy.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ, .", dtype="S1")
    letters, lengths = random.choice(alphabet, (count, 25)), random.integers(10, 26, count)
    addresses = [row.tobytes()[:length].decode().strip() for row, length in zip(letters, lengths)]
    phone = zip(nations + 10, *(random.integers(low, high, count) for low, high in
                                [(100, 1000), (100, 1000), (1000, 10_000)]))
    columns = {
        f"{prefix}_{'custkey' if prefix == 'c' else 'suppkey'}": keys,
        f"{prefix}_name": [f"{title}#{key:09}" for key in keys],
        f"{prefix}_address": addresses,
        f"{prefix}_city": pick(city_names, cities),
        f"{prefix}_nation": pick(list(NATIONS), nations),
        f"{prefix}_region": pick(list(NATIONS.values()), nations),
        f"{prefix}_phone": [f"{a}-{b}-{c}-{d}" for a, b, c, d in phone],
    }
    if prefix == "c":
        columns["c_mktsegment"] = pick(SEGMENTS, random.integers(0, len(SEGMENTS), count))
    return pyarrow.table(columns)


def parts(count: int) -> pyarrow.Table:
    random = random_numbers("Part")
    maker, category, brand = (random.integers(1, top + 1, count) for top in (5, 5, 40))
    first, second = (random.integers(0, len(COLORS), count) for _ in range(2))
    return pyarrow.table({
        "p_partkey": numpy.arange(1, count + 1, dtype=numpy.int32),
        "p_name": [f"{COLORS[a]} {COLORS[b]}" for a, b in zip(first, second)],
        "p_mfgr": [f"MFGR#{m}" for m in maker],
        "p_category": [f"MFGR#{m}{c}" for m, c in zip(maker, category)],
        "p_brand1": [f"MFGR#{m}{c}{b}" for m, c, b in zip(maker, category, brand)],
        "p_color": pick(COLORS, first),
        "p_type": pick(TYPES, random.integers(0, len(TYPES), count)),
        "p_size": random.integers(1, 51, count).astype(numpy.int32),
        "p_container": pick(CONTAINERS, random.integers(0, len(CONTAINERS), count)),
    })


def dates() -> pyarrow.Table:
    days = [day.astype(object) for day in numpy.arange(FIRST_DAY, LAST_DAY + 1)]
    numbers = {
        "d_datekey": [day.year * 10_000 + day.month * 100 + day.day for day in days],
        "d_year": [day.year for day in days],
        "d_month": [day.month for day in days],
        "d_daynuminweek": [day.isoweekday() for day in days],
        "d_daynuminmonth": [day.day for day in days],
        "d_daynuminyear": [day.timetuple().tm_yday for day in days],
        "d_weeknuminyear": [day.isocalendar().week for day in days],
    }
    table = pyarrow.table({name: pyarrow.array(values, pyarrow.int32()) for name, values in numbers.items()})
    return (table.append_column("d_date", pyarrow.array(days, pyarrow.date32()))
                 .append_column("d_yearmonth", pyarrow.array([f"{day:%Y-%m}" for day in days])))


class Orders(NamedTuple):
    events: pyarrow.Table      # one row per order, lines nested
    lineorder: pyarrow.Table   # one row per line


def orders(name: str, first: int, count: int, since: numpy.datetime64, until: numpy.datetime64,
           sizes: Counts) -> Orders:
    """Orders number `first` to `first + count`, placed from `since` to before `until`."""
    random = random_numbers(name)
    low, high = since.astype("datetime64[s]").astype(int), until.astype("datetime64[s]").astype(int)
    placed = numpy.sort(random.integers(low, high, count))
    number = numpy.arange(first, first + count)
    order_key = number // 8 * 32 + number % 8 + 1
    buyer = random.integers(0, sizes.customers * 2 // 3, count)
    customer = (buyer // 2 * 3 + 1 + buyer % 2).astype(numpy.int32)
    priority = pick(PRIORITIES, random.integers(0, len(PRIORITIES), count))

    lines_of = random.integers(1, 8, count)
    offsets = numpy.concatenate([[0], numpy.cumsum(lines_of)])
    total, order_of = int(offsets[-1]), numpy.repeat(numpy.arange(count), lines_of)
    line_number = (numpy.arange(total) - offsets[order_of] + 1).astype(numpy.int32)
    part = random.integers(1, sizes.parts + 1, total).astype(numpy.int32)
    supplier = random.integers(1, sizes.suppliers + 1, total).astype(numpy.int32)
    quantity = random.integers(1, 51, total).astype(numpy.int32)
    discount = random.integers(0, 11, total).astype(numpy.int32)
    tax = random.integers(0, 9, total).astype(numpy.int32)
    price = part_price(part.astype(numpy.int64))
    extended_price, supply_cost = quantity * price, 6 * price // 10
    revenue = extended_price * (100 - discount) // 100
    taxed = revenue * (100 + tax) // 100
    total_price = numpy.add.reduceat(taxed, offsets[:-1])
    ship_mode = pick(SHIP_MODES, random.integers(0, len(SHIP_MODES), total))

    days = numpy.arange(FIRST_DAY, LAST_DAY + 1)
    texts = numpy.datetime_as_string(days)
    date_keys = numpy.array([int(text.replace("-", "")) for text in texts], dtype=numpy.int32)
    order_day = placed // 86_400 - FIRST_DAY.astype(int)
    commit_day = order_day[order_of] + random.integers(30, 91, total)

    lines = pyarrow.StructArray.from_arrays(
        [pyarrow.array(a) for a in (line_number, part, supplier, quantity, extended_price, discount, tax, supply_cost)]
        + [pick(texts.tolist(), commit_day), ship_mode],
        names=["line_number", "part_id", "supplier_id", "quantity", "extended_price", "discount", "tax",
               "supply_cost", "commit_date", "ship_mode"])
    data = pyarrow.table({
        "order_id": order_key, "customer_id": customer, "priority": priority,
        "ship_priority": numpy.zeros(count, dtype=numpy.int32), "total_price": total_price,
        "lines": pyarrow.ListArray.from_arrays(pyarrow.array(offsets, pyarrow.int32()), lines)})
    lineorder = pyarrow.table({
        "lo_orderkey": order_key[order_of], "lo_linenumber": line_number, "lo_custkey": customer[order_of],
        "lo_partkey": part, "lo_suppkey": supplier, "lo_orderdate": date_keys[order_day][order_of],
        "lo_orderpriority": priority.take(pyarrow.array(order_of)),
        "lo_shippriority": numpy.zeros(total, dtype=numpy.int32), "lo_quantity": quantity,
        "lo_extendedprice": extended_price, "lo_ordtotalprice": total_price[order_of], "lo_discount": discount,
        "lo_revenue": revenue, "lo_supplycost": supply_cost, "lo_tax": tax,
        "lo_commitdate": date_keys[commit_day], "lo_shipmode": ship_mode})
    return Orders(envelopes(random, "order_placed", "checkout/7.3.1", placed, data), lineorder)


def envelopes(random: numpy.random.Generator, kind: str, producer: str, at: numpy.ndarray,
              data: pyarrow.Table) -> pyarrow.Table:
    count = data.num_rows
    return pyarrow.table({
        "event_id": hex_ids(random, count),
        "type": pick([kind], numpy.zeros(count, dtype=int)),
        "version": numpy.ones(count, dtype=numpy.int32),
        "occurred_at": times(at),
        "producer": pick([producer], numpy.zeros(count, dtype=int)),
        "data": data.combine_chunks().to_struct_array().combine_chunks(),
    })


def registrations(kind: str, table: pyarrow.Table, key: str) -> pyarrow.Table:
    """Events of one dimension: `c_city` is said as `city`; all happened in the year before the first order."""
    random = random_numbers(kind)
    start = (FIRST_DAY - 365).astype("datetime64[s]").astype(int)
    at = start + numpy.sort(random.integers(0, 364 * 86_400, table.num_rows))
    names = [key] + [name.split("_", 1)[1] for name in table.column_names[1:]]
    return envelopes(random, kind, "master-data/2.0.4", at, table.rename_columns(names))


def write_events(folder: Path, name: str, events: pyarrow.Table, first: int = 0) -> None:
    """Files of so many events; `first` is the number of the first event."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, events.num_rows, EVENTS_PER_FILE):
        part = events.slice(start, EVENTS_PER_FILE)
        polars.from_arrow(part).write_ndjson(folder / f"{name}-{(first + start) // EVENTS_PER_FILE:04}.jsonl")


def write_parquet(path: Path, tables: Iterable[pyarrow.Table]) -> int:
    """One file of all of them; its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        writer, rows = None, 0
        for table in tables:
            writer = writer or stack.enter_context(
                pyarrow.parquet.ParquetWriter(path, table.schema, compression=PARQUET_CODEC))
            writer.write_table(table, row_group_size=PARQUET_ROW_GROUP)
            rows += table.num_rows
    return rows


def base_orders(sizes: Counts, out: Path) -> Iterator[pyarrow.Table]:
    """Writes the events of all orders, and yields their lines: some orders after others, each with days of their own."""
    low, high = (day.astype("datetime64[s]") for day in (FIRST_DAY, LAST_ORDER_DAY + 1))
    for first in range(0, sizes.orders, ORDERS_AT_ONCE):
        count = min(ORDERS_AT_ONCE, sizes.orders - first)
        since, until = (low + (high - low) * place // sizes.orders for place in (first, first + count))
        some = orders(f"orders-{first}" if first else "orders", first, count, since, until, sizes)
        write_events(out / "events" / "orders", "orders", some.events, first)
        yield some.lineorder


def generate(scale: float, out: Path) -> dict:
    """Everything below `out`, unless it is there already; returns the manifest."""
    manifest_path, sizes = out / "manifest.json", counts_at(scale)
    wanted = {"scale": scale, "seed": SEED, "codec": PARQUET_CODEC, **sizes._asdict()}
    if manifest_path.exists():
        manifest = json.loads(manifest_path.read_text())
        if {name: manifest.get(name) for name in wanted} == wanted:
            return manifest
    for old in ("events", "parquet", "increment"):
        shutil.rmtree(out / old, ignore_errors=True)
    manifest_path.unlink(missing_ok=True)

    dimensions = [
        ("customers", "customer", "customer_registered", "customer_id", people("c", "Customer", sizes.customers)),
        ("suppliers", "supplier", "supplier_registered", "supplier_id", people("s", "Supplier", sizes.suppliers)),
        ("parts", "part", "part_listed", "part_id", parts(sizes.parts)),
    ]
    for stream, name, kind, key, table in dimensions:
        write_parquet(out / "parquet" / f"{name}.parquet", [table])
        write_events(out / "events" / stream, stream, registrations(kind, table, key))
    write_parquet(out / "parquet" / "date.parquet", [dates()])
    lines = write_parquet(out / "parquet" / "lineorder.parquet", base_orders(sizes, out))
    later = LAST_ORDER_DAY + 1
    more = orders("increment", sizes.orders, sizes.extra_orders, later, later + INCREMENT_DAYS, sizes)
    write_events(out / "increment" / "events" / "orders", "orders-increment", more.events)

    manifest = wanted | {"lines": lines, "extra_lines": more.lineorder.num_rows,
                         "events": sum(sizes[:4]), "event_bytes": folder_bytes(out / "events")}
    manifest_path.write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("scale", type=float, help="scale factor; below 1 for small trials, such as 0.01")
    arguments.add_argument("out", type=Path, help="folder to write to; left as it is if it holds the same already")
    options = arguments.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    manifest = generate(options.scale, options.out)
    print(json.dumps(manifest, indent=2))
    print(f"{time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()

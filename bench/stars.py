#!/usr/bin/env python3
"""Measure the full build of a fact with two versioned dimensions, beside DuckDB over the same files.

    python stars.py target/release/starmere /tmp/stars              # 10 million orders
    python stars.py target/release/starmere /tmp/stars --orders 1000000

Events of orders, customers and products land once. Then `starmere build` and SQL written by hand for DuckDB both read the landed
files of the lake and write the same tables: dimensions with a version for each change of a versioned attribute, members
that are only mentioned, and a fact whose rows have the keys of the versions that held when they happened. Copies of events
count once. Both sides have the same two cores, each is a process of its own, both write LZ4_RAW, and the sums over the stars
must be equal. It is measured warm and cold, in rounds of one run of each side.

Results, with settings and what stays unequal, are kept in bench/results/stars.json; `report.py` prints them.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb

from keeping import RESULTS, keep
from measuring import REPEATS, Cost, Failed, folder_mb, in_rounds, measure, pin, progress, rounded, threads

FILES = {
    "starmere.yaml": """
project: stars
warehouse: ./warehouse
sources:
  orders: { stream: orders, files: events/orders }
  customers: { stream: customers, files: events/customers }
  products: { stream: products, files: events/products }
""",
    "streams/orders.yaml": """
stream: orders
domain: sales
envelope: { id: event_id, constant_type: placed, time: at }
events:
  placed:
    versions:
      1:
        fields:
          order_id: { type: bigint, required: true }
          customer_id: { type: bigint }
          product_id: { type: bigint }
          quantity: { type: int }
          price: { type: "decimal(12,2)" }
          channel: { type: string }
""",
    "streams/customers.yaml": """
stream: customers
domain: sales
envelope: { id: event_id, constant_type: changed, time: at }
events:
  changed:
    versions:
      1:
        fields:
          customer_id: { type: bigint, required: true }
          name: { type: string }
          city: { type: string }
          segment: { type: string }
""",
    "streams/products.yaml": """
stream: products
domain: sales
envelope: { id: event_id, constant_type: changed, time: at }
events:
  changed:
    versions:
      1:
        fields:
          product_id: { type: bigint, required: true }
          name: { type: string }
          category: { type: string }
          list_price: { type: "decimal(12,2)" }
""",
    "domains/sales/models/customer.yaml": """
dimension: customer
key: customer_id
from: [{ stream: customers, event: changed, as: state }]
attributes:
  name: { type: string, history: overwrite }
  city: { type: string, history: version }
  segment: { type: string, history: version }
inferred_from: [sales.orders]
""",
    "domains/sales/models/product.yaml": """
dimension: product
key: product_id
from: [{ stream: products, event: changed, as: state }]
attributes:
  name: { type: string, history: overwrite }
  category: { type: string, history: version }
  list_price: { type: "decimal(12,2)", history: version }
inferred_from: [sales.orders]
""",
    "domains/sales/models/orders.yaml": """
fact: orders
from: { stream: orders, event: placed }
grain: order_id
dimensions:
  customer: { dimension: customer, key: customer_id }
  product: { dimension: product, key: product_id }
degenerate: { order_id: {}, channel: {} }
measures:
  quantity: {}
  price: {}
  revenue: { type: "decimal(18,2)", expression: quantity * price }
""",
    "domains/sales/products/orders_v1.yaml": """
product: orders
version: 1
ports:
  orders:
    model: orders
    columns:
      customer_key: { type: bigint, nullable: false }
      product_key: { type: bigint, nullable: false }
      order_id: { type: bigint }
      channel: { type: string }
      quantity: { type: int }
      price: { type: "decimal(12,2)" }
      revenue: { type: "decimal(18,2)" }
  customer:
    model: customer
    columns: { customer_key: { type: bigint, nullable: false }, city: { type: string }, segment: { type: string } }
  product:
    model: product
    columns: { product_key: { type: bigint, nullable: false }, category: { type: string } }
""",
}

# A year of orders, nearly in order; customers and products change all the time, and some are only mentioned. One order in a
# thousand comes twice. Numbers are mixed by hashing, so any run makes the same events.
EVENTS = """
CREATE MACRO mixed(n, salt) AS hash(n * 1000 + salt);
CREATE MACRO moment(second) AS strftime(TIMESTAMP '2024-01-01' + to_seconds(CAST(second AS BIGINT)), '%Y-%m-%dT%H:%M:%SZ');
COPY (SELECT 'c' || n AS event_id, moment(n * 31000000 // {changes_of_customers}) AS "at", mixed(n, 1) % {customers} AS customer_id,
             'customer number ' || mixed(n, 1) % {customers} AS name, 'city ' || mixed(n, 2) % 500 AS city,
             ['consumer', 'business', 'public'][CAST(mixed(n, 3) % 3 AS INTEGER) + 1] AS segment
      FROM range({changes_of_customers}) all_of(n)) TO '{events}/customers/0.jsonl' (FORMAT json);
COPY (SELECT 'p' || n AS event_id, moment(n * 31000000 // {changes_of_products}) AS "at", mixed(n, 4) % {products} AS product_id,
             'product number ' || mixed(n, 4) % {products} AS name, 'category ' || mixed(n, 5) % 40 AS category,
             CAST(CAST(mixed(n, 6) % 90000 AS INTEGER) / 100 AS DECIMAL(12,2)) AS list_price
      FROM range({changes_of_products}) all_of(n)) TO '{events}/products/0.jsonl' (FORMAT json);
"""
ORDERS = """COPY (SELECT 'o' || n AS event_id, moment(n * 31000000 // {orders} + mixed(n, 7) % 3600) AS "at", n AS order_id,
             mixed(n, 8) % {customers} AS customer_id, mixed(n, 9) % {products} AS product_id,
             CAST(mixed(n, 10) % 9 + 1 AS INTEGER) AS quantity,
             CAST(CAST(mixed(n, 11) % 90000 AS INTEGER) / 100 AS DECIMAL(12,2)) AS price,
             ['web', 'shop', 'phone', 'partner'][CAST(mixed(n, 12) % 4 AS INTEGER) + 1] AS channel
      FROM (SELECT unnest(CASE WHEN n % 1000 = 999 THEN [n, n] ELSE [n] END) AS n FROM range({first}, {end}) all_of(n)))
      TO '{events}/orders/{part}.jsonl' (FORMAT json)"""

# The copy that counts has the least (occurred_at, topic, partition, position).
EVENTS_THAT_COUNT = """SELECT * FROM read_parquet('{lake}/{stream}/**/*.parquet') landed
    SEMI JOIN (SELECT event_id, min((occurred_at, topic, partition, position)) AS first
               FROM read_parquet('{lake}/{stream}/**/*.parquet') GROUP BY event_id) firsts
    ON landed.event_id = firsts.event_id
       AND (landed.occurred_at, landed.topic, landed.partition, landed.position) = firsts.first"""

# Changes in the order of events; of several at one instant, the last; a version opens where a versioned value differs.
# Overwritten values are the last ones.
DIMENSION = """COPY (
    WITH changes AS (
        SELECT occurred_at, event_id, topic, partition, position, f.*
        FROM (SELECT *, from_json(decode(payload), '{form}') AS f FROM ({events}))
    ), instants AS (
        SELECT * FROM changes
        QUALIFY row_number() OVER (PARTITION BY {key}, occurred_at ORDER BY topic DESC, partition DESC, position DESC) = 1
    ), opened AS (
        SELECT *, last_value(name) OVER (PARTITION BY {key} ORDER BY occurred_at
                                         ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS last_name,
               row_number() OVER of_member AS place,
               {versioned_before}
        FROM instants WINDOW of_member AS (PARTITION BY {key} ORDER BY occurred_at)
        QUALIFY place = 1 OR {versioned_differs}
    ), versions AS (
        SELECT *, row_number() OVER of_member AS number,
               lead(occurred_at) OVER of_member AS next
        FROM opened WINDOW of_member AS (PARTITION BY {key} ORDER BY occurred_at)
    )
    SELECT CAST((CASE number WHEN 1 THEN hash('{name}', {key}) ELSE hash('{name}', {key}, event_id) END) >> 2 AS BIGINT) AS {name}_key,
           CAST(hash('{name}', {key}) >> 2 AS BIGINT) AS {name}_durable_key, {key}, last_name AS name, {versioned},
           CASE number WHEN 1 THEN TIMESTAMPTZ '0001-01-01 00:00:00Z' ELSE occurred_at END AS valid_from,
           coalesce(next, TIMESTAMPTZ '9999-12-31 00:00:00Z') AS valid_to, next IS NULL AS is_current,
           false AS is_deleted, false AS is_inferred
    FROM versions
    UNION ALL
    SELECT CAST(hash('{name}', {key}) >> 2 AS BIGINT), CAST(hash('{name}', {key}) >> 2 AS BIGINT), {key}, NULL, {nulls},
           TIMESTAMPTZ '0001-01-01 00:00:00Z', TIMESTAMPTZ '9999-12-31 00:00:00Z', true, false, true
    FROM (SELECT DISTINCT {key} FROM staged
          WHERE {key} IS NOT NULL AND {key} NOT IN (SELECT {key} FROM changes))
    ORDER BY 2, valid_from
) TO '{star}/{name}.parquet' (FORMAT parquet, COMPRESSION lz4_raw)"""

STAGED = """CREATE TEMP TABLE staged AS
    SELECT f.*, CAST(f.quantity * f.price AS DECIMAL(18,2)) AS revenue, occurred_at, event_id
    FROM (SELECT *, from_json(decode(payload), '{{"order_id": "BIGINT", "customer_id": "BIGINT", "product_id": "BIGINT",
        "quantity": "INTEGER", "price": "DECIMAL(12,2)", "channel": "VARCHAR"}}') AS f FROM ({events}))"""

FACT = """COPY (
    SELECT coalesce(c.customer_key, 0) AS customer_key, coalesce(c.customer_durable_key, 0) AS customer_durable_key,
           coalesce(p.product_key, 0) AS product_key, coalesce(p.product_durable_key, 0) AS product_durable_key,
           order_id, channel, quantity, price, revenue, o.occurred_at, o.event_id, 1 AS ordinal
    FROM staged o
    ASOF LEFT JOIN read_parquet('{star}/customer.parquet') c ON o.customer_id = c.customer_id AND o.occurred_at >= c.valid_from
    ASOF LEFT JOIN read_parquet('{star}/product.parquet') p ON o.product_id = p.product_id AND o.occurred_at >= p.valid_from
) TO '{star}/orders.parquet' (FORMAT parquet, COMPRESSION lz4_raw)"""

SETTINGS = {
    "Starmere": "`build` of what has landed; models in LZ4_RAW",
    "DuckDB": "hand-written SQL in bench/stars.py over Starmere's landed files; preserve_insertion_order = false, "
              "parquet_metadata_cache = true; the star in LZ4_RAW",
}
UNEQUAL = [
    "Against Starmere: it syncs what it commits, keeps logs of members and hashes of keys, from which increments, late events "
    "and repairs are built, and swaps at once. DuckDB's SQL promises none of it.",
    "Against DuckDB: its side starts Python, some 0.1 s, whose memory (some 60 MB) is in its peak.",
    "ClickHouse and polars are not measured: nobody has written its SQL for them.",
]

ANSWER = """SELECT count(*) AS orders, CAST(sum(o.revenue) AS VARCHAR) AS revenue, count(c.city) AS with_city,
                   count(p.category) AS with_category,
                   sum(CASE WHEN c.segment = 'business' AND p.category = 'category 7' THEN o.quantity ELSE 0 END) AS some
            FROM {orders} o JOIN {customer} c ON o.customer_key = c.customer_key
            JOIN {product} p ON o.product_key = p.product_key"""


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": threads()})
    connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false; SET parquet_metadata_cache = true")
    return connection


def duckdb_side(lake: Path, star: Path) -> None:
    """The same tables, by hand."""
    connection = connect()
    connection.execute(f"SET temp_directory = '{star}/spilled'")
    events = {name: EVENTS_THAT_COUNT.format(lake=lake, stream=name) for name in ("orders", "customers", "products")}
    connection.execute(STAGED.format(events=events["orders"]))
    for name, versioned, types in (("customer", ("city", "segment"), ("VARCHAR", "VARCHAR")),
                                   ("product", ("category", "list_price"), ("VARCHAR", "DECIMAL(12,2)"))):
        key = f"{name}_id"
        form = {key: "BIGINT", "name": "VARCHAR"} | dict(zip(versioned, types))
        before = ", ".join(f"lag({column}) OVER of_member AS {column}_before" for column in versioned)
        differs = " OR ".join(f"{column} IS DISTINCT FROM {column}_before" for column in versioned)
        connection.execute(DIMENSION.format(
            form=json.dumps(form), events=events[f"{name}s"], key=key, name=name, star=star, versioned=", ".join(versioned),
            versioned_before=before, versioned_differs=differs, nulls=", ".join("NULL" for _ in versioned)))
    connection.execute(FACT.format(star=star))


def generate(folder: Path, orders: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for stream in ("orders", "customers", "products"):
        (folder / "events" / stream).mkdir(parents=True)
    sizes = {"orders": orders, "customers": orders // 20, "products": orders // 200,
             "changes_of_customers": orders // 10, "changes_of_products": orders // 50, "events": folder / "events"}
    connection = connect()
    connection.execute("SET preserve_insertion_order = true")
    connection.execute(EVENTS.format(**sizes))
    for part in range(8):
        connection.execute(ORDERS.format(**sizes, part=part, first=orders * part // 8, end=orders * (part + 1) // 8))


def compared(starmere: list[str], star: Path) -> dict:
    """The sums over both stars, which must be equal."""
    tables = {name: f"read_parquet('{star}/{name}.parquet')" for name in ("orders", "customer", "product")}
    expected = dict(zip(("orders", "revenue", "with_city", "with_category", "some"),
                        connect().execute(ANSWER.format(**tables)).fetchone()))
    query = ANSWER.format(**{name: f"sales.orders_v1.{name}" for name in tables})
    answer = subprocess.run([*starmere, "--format", "json", "sql", query], stdout=subprocess.PIPE, check=True).stdout
    found = json.loads(answer)[0]
    if {name: str(value) for name, value in found.items()} != {name: str(value) for name, value in expected.items()}:
        raise Failed(f"the stars differ: {found} and {expected}")
    return {name: str(value) for name, value in expected.items()}


def stars(starmere: list[str], folder: Path, repeats: int) -> dict:
    log, star, lake = folder / "log.txt", folder / "star", folder / "warehouse/lake/sales"

    def prepare(side: str) -> list[Path]:
        for left in ("warehouse/models", "warehouse/catalog") if side == "Starmere" else ("star",):
            shutil.rmtree(folder / left, ignore_errors=True)
        star.mkdir(exist_ok=True)
        return [lake]

    def theirs() -> Cost:
        return measure([sys.executable, __file__, starmere[0], str(folder), "--duckdb", str(lake), str(star)], log)

    costs = in_rounds("stars", {"Starmere": lambda: measure([*starmere, "build"], log), "DuckDB": theirs}, prepare, repeats)
    answer = compared(starmere, star)
    return {"settings": SETTINGS, "unequal": UNEQUAL, **costs, "answer": answer,
            "on_disk_mb": rounded({"Starmere": folder_mb(folder / "warehouse/models"), "DuckDB": folder_mb(star)})}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--orders", type=int, default=10_000_000)
    arguments.add_argument("--keep", action="store_true", help="use the landed events of the last run, and keep them")
    arguments.add_argument("--repeats", type=int, default=REPEATS, help="how many runs each figure is the median of")
    arguments.add_argument("--results", type=Path, default=RESULTS / "stars.json", help="file to keep them in")
    arguments.add_argument("--duckdb", nargs=2, type=Path, metavar=("LAKE", "STAR"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.duckdb:
        return duckdb_side(*options.duckdb)
    pin()
    folder, binary = options.folder.resolve(), options.binary.resolve()
    starmere = [str(binary), "--project", str(folder), "--quiet"]
    try:
        if not (options.keep and (folder / "warehouse/lake").is_dir()):
            progress("making and landing the events")
            generate(folder, options.orders)
            measure([*starmere, "ingest", "--once"], folder / "log.txt")
        found = stars(starmere, folder, options.repeats)
    except Failed as failure:
        raise SystemExit(f"error: stars: {failure}")
    keep(options.results, binary, {"build": {"orders": options.orders, **found}})
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What a careful person would write by hand in DuckDB to do the work of `starmere ingest` and `build`.

`ssb.py` runs this as a process of its own, to measure its time and memory like Starmere's:

    python duckdb_side.py land       EVENTS LAKE     # NDJSON to Parquet: envelope columns, payload verbatim
    python duckdb_side.py build      LAKE STAR       # the star from the landed events, duplicates left out
    python duckdb_side.py increment  EVENTS LAKE STAR  # land EVENTS too, and append their lines to the star

The star has Starmere's columns: hashed 64-bit keys, 0 where a member is unknown. Codecs are Starmere's too
(lake/src/delta/write.rs): zstd level 1 for what has landed, LZ4_RAW for the star. It has none of its promises: no
history, no late changes, no atomic swap, no resumption.
"""

import argparse
from pathlib import Path

import duckdb

from landing_peers import ZSTD_LEVEL
from measuring import threads

STREAMS = ("customers", "suppliers", "parts", "orders")
FIRST_DAY, LAST_DAY = "1992-01-01", "1998-12-31"
ZSTD = f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL})"
LZ4 = "(FORMAT parquet, COMPRESSION lz4_raw)"

LAND = """COPY (
    SELECT e.event_id, e.type AS event_type, e.version AS event_version, e.occurred_at, payload
    FROM (SELECT from_json(json, '{{"event_id": "VARCHAR", "type": "VARCHAR", "version": "INTEGER",
                           "occurred_at": "TIMESTAMPTZ"}}') AS e, encode(CAST(json AS VARCHAR)) AS payload
          FROM read_json_objects('{events}/{stream}/*.jsonl', format = 'newline_delimited'))
) TO '{target}' """ + ZSTD

# The copy that counts is the first: of those with the least time, the least position.
FIRST_COPIES = """SELECT * FROM read_parquet('{landed}', filename = true, file_row_number = true) landed
    SEMI JOIN (SELECT event_id, min((occurred_at, filename, file_row_number)) AS first
               FROM read_parquet('{landed}', filename = true, file_row_number = true) GROUP BY event_id) firsts
    ON landed.event_id = firsts.event_id
       AND (landed.occurred_at, landed.filename, landed.file_row_number) = firsts.first"""

DIMENSION_FIELDS = {
    "customer": ("customers", "customer_id", "name address city nation region phone mktsegment"),
    "supplier": ("suppliers", "supplier_id", "name address city nation region phone"),
    "part": ("parts", "part_id", "name mfgr category brand1 color type size container"),
}

CALENDAR = f"""COPY (
    SELECT CAST(strftime(day, '%Y%m%d') AS BIGINT) AS date_key, CAST(day AS DATE) AS date, year(day) AS year,
           quarter(day) AS quarter, month(day) AS month, monthname(day) AS month_name, day(day) AS day_of_month,
           isodow(day) AS day_of_week, dayname(day) AS day_name, dayofyear(day) AS day_of_year,
           isoyear(day) AS iso_year, week(day) AS iso_week, strftime(day, '%Y-%m') AS year_month,
           isodow(day) > 5 AS is_weekend
    FROM generate_series(DATE '{FIRST_DAY}', DATE '{LAST_DAY}', INTERVAL 1 DAY) days(day)
) TO '{{star}}/date.parquet' {LZ4}"""


ORDER_FORM = """{"data": {"order_id": "BIGINT", "customer_id": "INTEGER", "priority": "VARCHAR",
    "ship_priority": "INTEGER", "total_price": "BIGINT", "lines": [{"line_number": "INTEGER", "part_id": "INTEGER",
    "supplier_id": "INTEGER", "quantity": "INTEGER", "extended_price": "BIGINT", "discount": "INTEGER",
    "tax": "INTEGER", "supply_cost": "BIGINT", "commit_date": "DATE", "ship_mode": "VARCHAR"}]}}"""

LINEORDER = """COPY (
    WITH orders AS (
        SELECT event_id, occurred_at, from_json(decode(payload), '{form}').data AS o
        FROM ({events})
    ), lines AS (
        SELECT event_id, occurred_at, o, unnest(o.lines) AS l, generate_subscripts(o.lines, 1) AS ordinal FROM orders
    )
    SELECT o.order_id, l.line_number, coalesce(c.customer_key, 0) AS customer_key, coalesce(p.part_key, 0) AS part_key,
           coalesce(s.supplier_key, 0) AS supplier_key, coalesce(d.date_key, 0) AS order_date_key,
           coalesce(t.date_key, 0) AS commit_date_key, o.priority, o.ship_priority, l.quantity, l.extended_price,
           o.total_price, l.discount, l.extended_price * (100 - l.discount) // 100 AS revenue, l.supply_cost, l.tax,
           l.ship_mode, occurred_at, event_id, ordinal
    FROM lines
    LEFT JOIN read_parquet('{star}/customer.parquet') c ON o.customer_id = c.customer_id
    LEFT JOIN read_parquet('{star}/part.parquet') p ON l.part_id = p.part_id
    LEFT JOIN read_parquet('{star}/supplier.parquet') s ON l.supplier_id = s.supplier_id
    LEFT JOIN read_parquet('{star}/date.parquet') d ON CAST(occurred_at AS DATE) = d.date
    LEFT JOIN read_parquet('{star}/date.parquet') t ON l.commit_date = t.date
) TO '{target}' """ + LZ4


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": threads()})
    connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false; SET parquet_metadata_cache = true")
    return connection


def land(connection: duckdb.DuckDBPyConnection, events: Path, lake: Path, name: str) -> None:
    for stream in STREAMS:
        if (events / stream).is_dir():
            (lake / stream).mkdir(parents=True, exist_ok=True)
            connection.execute(LAND.format(events=events, stream=stream, target=lake / stream / f"{name}.parquet"))


def build(connection: duckdb.DuckDBPyConnection, lake: Path, star: Path) -> None:
    (star / "lineorder").mkdir(parents=True, exist_ok=True)
    connection.execute(CALENDAR.format(star=star))
    for name, (stream, key, fields) in DIMENSION_FIELDS.items():
        columns = ", ".join(f"decode(payload) ->> '$.data.{field}' AS {field}" for field in fields.split())
        first = FIRST_COPIES.format(landed=lake / stream / "*.parquet")
        connection.execute(f"""COPY (
            SELECT CAST(hash('{name}', k) >> 1 AS BIGINT) AS {name}_key, k AS {key}, * EXCLUDE (k)
            FROM (SELECT CAST(decode(payload) ->> '$.data.{key}' AS INTEGER) AS k, {columns} FROM ({first}))
        ) TO '{star}/{name}.parquet' {LZ4}""")
    events = FIRST_COPIES.format(landed=lake / "orders" / "*.parquet")
    connection.execute(LINEORDER.format(form=ORDER_FORM, events=events, star=star,
                                        target=star / "lineorder" / "base.parquet"))


def increment(connection: duckdb.DuckDBPyConnection, events: Path, lake: Path, star: Path) -> None:
    land(connection, events, lake, "increment")
    # The ids that have landed before: one an order, where the star has one a line.
    fresh = FIRST_COPIES.format(landed=lake / "orders" / "increment.parquet") + f"""
        ANTI JOIN read_parquet('{lake}/orders/base.parquet') before ON landed.event_id = before.event_id"""
    connection.execute(LINEORDER.format(form=ORDER_FORM, events=fresh, star=star,
                                        target=star / "lineorder" / "increment.parquet"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = arguments.add_subparsers(dest="step", required=True)
    for step, folders in {"land": ["events", "lake"], "build": ["lake", "star"],
                          "increment": ["events", "lake", "star"]}.items():
        parser = steps.add_parser(step)
        for folder in folders:
            parser.add_argument(folder, type=Path)
    options = arguments.parse_args()
    connection = connect()
    if options.step == "land":
        land(connection, options.events, options.lake, "base")
    elif options.step == "build":
        build(connection, options.lake, options.star)
    else:
        increment(connection, options.events, options.lake, options.star)


if __name__ == "__main__":
    main()

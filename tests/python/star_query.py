#!/usr/bin/env python3
"""Ask Starmere a question over Arrow Flight SQL, with the stock ADBC client.

    pip install adbc-driver-flightsql pyarrow
    python star_query.py grpc://127.0.0.1:7071 --sql "SELECT 1"

Without `--sql` it lists the tables that there are.
"""

import argparse
import time

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow

TABLES = """SELECT table_catalog, table_schema, table_name FROM information_schema.tables
            WHERE table_schema <> 'information_schema' ORDER BY 1, 2, 3"""


def ask(endpoint: str, sql: str, credentials: dict[str, str] | None = None) -> pyarrow.Table:
    with flight_sql.connect(endpoint, db_kwargs=credentials, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()


def draw(table: pyarrow.Table) -> str:
    """The table as text: numbers to the right, large ones in groups of three unless they are keys."""
    columns, widths, numeric = [], [], []
    for field, column in zip(table.schema, table.columns):
        values = column.to_pylist()
        is_integer = pyarrow.types.is_integer(field.type)
        large = is_integer and not field.name.endswith("key") and any(abs(value or 0) > 9999 for value in values)
        cells = ["" if value is None else f"{value:,}" if large else str(value) for value in values]
        columns.append(cells)
        widths.append(max(map(len, [field.name, *cells])))
        numeric.append(is_integer or pyarrow.types.is_floating(field.type) or pyarrow.types.is_decimal(field.type))

    def line(cells) -> str:
        padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric))
        return "  ".join(padded).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([line(table.column_names), rule, *map(line, zip(*columns))])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("endpoint", help="such as grpc://127.0.0.1:7071")
    arguments.add_argument("--sql", default=TABLES, help="the question; default: which tables there are")
    arguments.add_argument("--rows", type=int, default=50, help="print at most so many (default: 50)")
    arguments.add_argument("--user")
    arguments.add_argument("--password", default="")
    options = arguments.parse_args()

    credentials = {"username": options.user, "password": options.password} if options.user else None
    began = time.perf_counter()
    try:
        table = ask(options.endpoint, options.sql, credentials)
    except flight_sql.Error as error:
        raise SystemExit(f"error: {error}")
    took = time.perf_counter() - began

    print(draw(table.slice(0, options.rows)))
    more = f", {options.rows} shown" if table.num_rows > options.rows else ""
    print(f"\n{table.num_rows:,} rows in {took * 1000:.1f} ms{more}")


if __name__ == "__main__":
    main()

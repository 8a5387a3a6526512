#!/usr/bin/env python3
"""One engine that is asked queries, in a process of its own: `ssb.py` and `clients.py` compare several of them.

    python askers.py duckdb-parquet FOLDER        # Parquet files of the plain star, FOLDER/TABLE.parquet
    python askers.py duckdb-tables PATH           # DuckDB's own tables
    python askers.py clickhouse-parquet FOLDER    # ClickHouse, over the same files
    python askers.py clickhouse-tables FOLDER     # MergeTree tables
    python askers.py polars-parquet FOLDER        # polars, over the same files
    python askers.py starmere ADDRESS             # a server, over Flight SQL

It says `ready` once its libraries are loaded, and opens nothing before the first query: so the time of the first one
is that of a new process which opens the tables as well. Each line of its input is {"sql": text, "answer": path or null};
each line of its output is {"ms": …, "rows": …}, or {"error": text}. The answer is written to the path as Arrow. With --make and
the plain star's folder, it makes the tables at PATH instead.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Callable

import pyarrow

from measuring import peak_mb, threads

TABLES = ("lineorder", "customer", "supplier", "part", "date")
Ask = Callable[[str], pyarrow.Table]


# How each is opened: `import` at once, the tables when it is called.


def duckdb_connection(path: str, **config: object):
    import duckdb
    connection = duckdb.connect(path, config={"threads": threads(), **config})
    connection.execute("SET parquet_metadata_cache = true")
    return connection


def duckdb_parquet(folder: str) -> Ask:
    connection = duckdb_connection(":memory:")
    for name in TABLES:
        connection.execute(f"""CREATE VIEW "{name}" AS FROM read_parquet('{folder}/{name}.parquet')""")
    return lambda sql: connection.sql(sql).to_arrow_table()


def duckdb_tables(path: str) -> Ask:
    connection = duckdb_connection(path, access_mode="READ_ONLY")
    return lambda sql: connection.sql(sql).to_arrow_table()


def clickhouse_session(path: str = ""):
    from chdb import session
    opened = session.Session(path)
    opened.query(f"SET max_threads = {threads()}, use_parquet_metadata_cache = 1, schema_inference_make_columns_nullable = 0")
    return opened


def clickhouse_asks(opened) -> Ask:
    def ask(sql: str) -> pyarrow.Table:
        return pyarrow.ipc.open_stream(opened.query(sql, "ArrowStream").bytes()).read_all()
    return ask


def clickhouse_parquet(folder: str) -> Ask:
    opened = clickhouse_session()
    for name in TABLES:
        opened.query(f'CREATE VIEW "{name}" AS SELECT * FROM file(\'{folder}/{name}.parquet\', Parquet)')
    return clickhouse_asks(opened)


def clickhouse_tables(path: str) -> Ask:
    return clickhouse_asks(clickhouse_session(path))


def polars_parquet(folder: str) -> Ask:
    import polars
    tables = polars.SQLContext({name: polars.scan_parquet(f"{folder}/{name}.parquet") for name in TABLES})
    return lambda sql: tables.execute(sql).collect(engine="streaming").to_arrow()


def starmere(address: str) -> Ask:
    import adbc_driver_flightsql.dbapi as flight_sql
    cursor = flight_sql.connect(address, autocommit=True).cursor()

    def ask(sql: str) -> pyarrow.Table:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()
    return ask


SIDES = {
    "starmere": (starmere, "adbc_driver_flightsql.dbapi"),
    "duckdb-parquet": (duckdb_parquet, "duckdb"),
    "duckdb-tables": (duckdb_tables, "duckdb"),
    "clickhouse-parquet": (clickhouse_parquet, "chdb"),
    "clickhouse-tables": (clickhouse_tables, "chdb"),
    "polars-parquet": (polars_parquet, "polars"),
}


# How tables are made.


def make_duckdb_tables(folder: str, path: str) -> None:
    import duckdb
    connection = duckdb.connect(path, config={"threads": threads()})
    for name in TABLES:
        connection.execute(f"""CREATE TABLE "{name}" AS FROM read_parquet('{folder}/{name}.parquet')""")
    connection.execute("CHECKPOINT")


def make_clickhouse_tables(folder: str, path: str) -> None:
    """Sorted by the order's day and key, as the events came; text of few values in a dictionary."""
    opened = clickhouse_session(path)
    keys = dict(zip(TABLES, ("lo_orderdate, lo_orderkey", "c_custkey", "s_suppkey", "p_partkey", "d_datekey")))
    unlike = {"c_name", "c_address", "c_phone", "s_name", "s_address", "s_phone", "p_name"}
    for name in TABLES:
        file = f"file('{folder}/{name}.parquet', Parquet)"
        described = [line.split("\t")[:2] for line in str(opened.query(f"DESCRIBE {file}", "TSV")).splitlines()]
        columns = ", ".join(f"toLowCardinality({column}) AS {column}" if kind == "String" and column not in unlike else column
                            for column, kind in described)
        opened.query(f'CREATE TABLE "{name}" ENGINE = MergeTree ORDER BY ({keys[name]}) AS SELECT {columns} FROM {file}')
        opened.query(f'OPTIMIZE TABLE "{name}" FINAL')


MAKERS = {"duckdb-tables": make_duckdb_tables, "clickhouse-tables": make_clickhouse_tables}


def answers(open_side: Callable[[str], Ask], where: str) -> None:
    ask = None
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        try:
            ask = ask or open_side(where)
            answer = ask(asked["sql"])
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
            continue
        took = (time.perf_counter() - began) * 1000
        if asked.get("answer"):
            with pyarrow.OSFile(asked["answer"], "wb") as file, pyarrow.ipc.new_file(file, answer.schema) as writer:
                writer.write_table(answer)
        print(json.dumps({"ms": round(took, 3), "rows": answer.num_rows, "peak_mb": peak_mb(os.getpid())}), flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("side", choices=SIDES)
    arguments.add_argument("where", help="a folder, a file, or a server's address")
    arguments.add_argument("--make", type=Path, metavar="FOLDER", help="make the tables, of the plain star in this folder")
    options = arguments.parse_args()
    if options.make:
        MAKERS[options.side](str(options.make), options.where)
        return
    open_side, library = SIDES[options.side]
    __import__(library)
    print("ready", flush=True)
    answers(open_side, options.where)


if __name__ == "__main__":
    main()

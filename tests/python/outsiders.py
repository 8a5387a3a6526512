#!/usr/bin/env python3
"""Can engines that are not Starmere read a warehouse, and do they read the same?

    python outsiders.py WAREHOUSE_DIR

Walks a warehouse folder for Delta tables (folders that hold `_delta_log`) and reads each of them with
four engines: delta-rs (the `deltalake` package), polars, ClickHouse (through chdb), and DuckDB, which reads the
files that delta-rs finds in the log, by a reader of Parquet of its own. Row counts, schemas and a checksum of every column must agree. Exit 0 if they do, 1 if not.

An engine that fails on a table with rows is a failure. What an engine cannot do by design is said in
a note instead: ClickHouse has one type for text and bytes, no null arrays, and no times before 1900 or
after 2299 (it may clamp them, so values outside are left out where it disagrees).
"""

import argparse
import json
import os
from pathlib import Path
from typing import Iterable, NamedTuple, Protocol

import chdb
import deltalake
import duckdb
import numpy
import polars
import pyarrow
import pyarrow.compute
from pyarrow import types

CLICKHOUSE_MICROS = (-2_208_988_800_000_000, 10_413_791_999_999_999)  # 1900 to 2299, end included
CLICKHOUSE_DAYS = (-25_567, 120_529)


class Checksum(NamedTuple):
    """Order does not matter; nulls count by their absence."""
    values: int
    digest: int


class Engine(Protocol):
    def schema(self, table: Path) -> pyarrow.Schema: ...
    def count(self, table: Path) -> int: ...
    def column(self, table: Path, name: str) -> pyarrow.ChunkedArray: ...


class DeltaRs:
    def schema(self, table: Path) -> pyarrow.Schema:
        return pyarrow.schema(deltalake.DeltaTable(str(table)).schema().to_arrow())

    def query(self, table: Path, sql: str) -> pyarrow.Table:
        builder = deltalake.QueryBuilder().register("t", deltalake.DeltaTable(str(table)))
        return pyarrow.table(builder.execute(sql).read_all())

    def count(self, table: Path) -> int:
        return self.query(table, "SELECT count(*) AS n FROM t")["n"][0].as_py()

    def column(self, table: Path, name: str) -> pyarrow.ChunkedArray:
        return self.query(table, f'SELECT "{name}" FROM t').column(0)


class Polars:
    def schema(self, table: Path) -> pyarrow.Schema:
        return polars.scan_delta(str(table)).limit(0).collect().to_arrow().schema

    def count(self, table: Path) -> int:
        return polars.scan_delta(str(table)).select(polars.len()).collect().item()

    def column(self, table: Path, name: str) -> pyarrow.ChunkedArray:
        return polars.scan_delta(str(table)).select(name).collect().to_arrow().column(0)


class ClickHouse:
    def query(self, table: Path, what: str, rest: str = "") -> pyarrow.Table:
        place = str(table).replace("\\", "\\\\").replace("'", "\\'")
        sql = f"SELECT {what} FROM deltaLakeLocal('{place}') {rest} SETTINGS output_format_arrow_string_as_string = 0"
        return pyarrow.ipc.open_stream(chdb.query(sql, "ArrowStream").bytes()).read_all()

    def schema(self, table: Path) -> pyarrow.Schema:
        return self.query(table, "*", "LIMIT 0").schema

    def count(self, table: Path) -> int:
        return self.query(table, "count() AS n")["n"][0].as_py()

    def column(self, table: Path, name: str) -> pyarrow.ChunkedArray:
        return self.query(table, f"`{name}`").column(0)


class DuckDB:
    """Its reader of Delta's log is an extension that would have to be fetched."""

    def query(self, table: Path, what: str, rest: str = "") -> pyarrow.Table:
        files = deltalake.DeltaTable(str(table)).file_uris()
        if not files:
            raise ValueError("the table has no files")
        with duckdb.connect() as connection:
            sql = f"SELECT {what} FROM read_parquet($1, hive_partitioning = true, union_by_name = true) {rest}"
            return connection.sql(sql, params=[files]).to_arrow_table()

    def schema(self, table: Path) -> pyarrow.Schema:
        return self.query(table, "*", "LIMIT 0").schema

    def count(self, table: Path) -> int:
        return self.query(table, "count(*) AS n")["n"][0].as_py()

    def column(self, table: Path, name: str) -> pyarrow.ChunkedArray:
        return self.query(table, f'"{name}"').column(0)


ENGINES: dict[str, Engine] = {"delta-rs": DeltaRs(), "polars": Polars(), "clickhouse": ClickHouse(), "duckdb": DuckDB()}


def kind(of: pyarrow.DataType) -> str:
    """The type as all engines can say it."""
    if types.is_dictionary(of):
        return kind(of.value_type)
    if any(test(of) for test in (types.is_string, types.is_large_string, types.is_string_view, types.is_binary,
                                 types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)):
        return "text or bytes"
    if types.is_decimal(of):
        return f"decimal({of.precision},{of.scale})"
    if types.is_timestamp(of):
        return "timestamp"
    if types.is_date(of):
        return "date"
    return "nested" if types.is_nested(of) else str(of)


def plain(column: pyarrow.ChunkedArray) -> polars.Series:
    """The column's values that are not null, in a type whose hash does not depend on the engine."""
    of = kind(column.type)
    if of == "nested":  # null and empty are one to ClickHouse
        lengths = pyarrow.compute.list_value_length(column) if types.is_list(column.type) else None
        if lengths is not None and not pyarrow.compute.sum(lengths).as_py():
            return polars.Series([], dtype=polars.Binary)
        texts = [json.dumps(v, default=lambda x: x.hex() if isinstance(x, bytes) else str(x)) for v in
                 map(as_bytes, column.to_pylist()) if v]
        return polars.Series(texts, dtype=polars.String).cast(polars.Binary)
    series = polars.Series("", column).drop_nulls()
    if of == "text or bytes":
        return series.cast(polars.Binary)
    if of == "timestamp":
        return series.dt.timestamp("us")
    if of == "date":
        return series.cast(polars.Int32).cast(polars.Int64)
    if of.startswith("decimal"):
        return series.cast(polars.String)
    if series.dtype.is_float():
        return series.cast(polars.Float64)
    return series.cast(polars.Int64)


def as_bytes(value: object) -> object:
    """Text as bytes all the way down, for engines with one type for both."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        return {name: as_bytes(part) for name, part in value.items()}
    return [as_bytes(part) for part in value] if isinstance(value, (list, tuple)) else value


def checksum(values: polars.Series) -> Checksum:
    digest = int(numpy.sum(values.hash(seed=7).to_numpy(), dtype=numpy.uint64)) if len(values) else 0
    return Checksum(len(values), digest)


def within_clickhouse(values: polars.Series, of: str) -> polars.Series:
    low, high = CLICKHOUSE_DAYS if of == "date" else CLICKHOUSE_MICROS
    return values.filter((values > low) & (values < high))  # the bounds themselves may be clamped values


class Report:
    def __init__(self) -> None:
        self.failures: list[str] = []
        self.notes: list[str] = []


def each_engine(report: Report, what: str, ask) -> dict:
    """What each engine answers; one that raises is reported and left out."""
    answers = {}
    for name, engine in ENGINES.items():
        try:
            answers[name] = ask(engine)
        except Exception as error:  # whatever an engine may raise is what we want to report
            report.failures.append(f"{name} could not read {what}: {str(error).splitlines()[0][:300]}")
    return answers


def compare_table(table: Path) -> tuple[int | None, int, Report]:
    """Rows, columns compared, and what is to be said about it."""
    report = Report()
    counts = each_engine(report, "the row count", lambda e: e.count(table))
    if len(set(counts.values())) > 1:
        report.failures.append(f"row counts differ: {counts}")
    rows = max(counts.values(), default=None)
    schemas = each_engine(report, "the schema", lambda e: [(f.name, kind(f.type)) for f in e.schema(table)])
    if rows == 0:
        # Nothing to read: an engine that cannot open a table without files is noted, not failed.
        report.notes += [f"empty; {line}" for line in report.failures]
        report.failures = []
    if not schemas:
        return rows, 0, report
    reference = next(iter(schemas.values()))
    for name, schema in schemas.items():
        if sorted(schema) != sorted(reference):
            odd = sorted(set(schema) ^ set(reference))
            report.failures.append(f"schema of {name} differs: {odd}")
    if not rows:
        return rows, 0, report
    for column, of in reference:
        compare_column(table, column, of, report)
    return rows, len(reference), report


def compare_column(table: Path, column: str, of: str, report: Report) -> None:
    values = each_engine(report, f"column `{column}`", lambda e: plain(e.column(table, column)))
    sums = {name: checksum(series) for name, series in values.items()}
    if len(set(sums.values())) <= 1:
        return
    others = {name: one for name, one in sums.items() if name != "clickhouse"}
    if of in ("date", "timestamp") and len(set(others.values())) == 1:
        inside = {checksum(within_clickhouse(series, of)) for series in values.values()}
        if len(inside) == 1 and len({one.values for one in sums.values()}) == 1:
            report.notes.append(f"`{column}`: clickhouse clamps times outside 1900..2299; the rest agree")
            return
    report.failures.append(f"column `{column}` differs: " + ", ".join(
        f"{name} {one.values} values, sum {one.digest:016x}" for name, one in sums.items()))


def delta_tables(warehouse: Path) -> Iterable[Path]:
    return sorted(log.parent for log in warehouse.rglob("_delta_log") if log.is_dir())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("warehouse_dir", type=Path)
    options = arguments.parse_args()

    warehouse = options.warehouse_dir.resolve()
    tables = list(delta_tables(warehouse))
    if not tables:
        raise SystemExit(f"error: no Delta table below `{warehouse}`")
    os.chdir(warehouse)  # ClickHouse reads local files below its working directory only
    print(f"delta-rs {deltalake.__version__}, polars {polars.__version__}, "
          f"clickhouse {chdb.query('SELECT version()', 'TSV').bytes().decode().strip()}")
    failed = 0
    for table in tables:
        rows, columns, report = compare_table(table)
        failed += bool(report.failures)
        shown = "?" if rows is None else f"{rows:,}"
        print(f"{'FAIL' if report.failures else 'ok  '}  {table.relative_to(warehouse)}"
              f"  ({shown} rows, {columns} columns compared)")
        for line in report.failures:
            print(f"      {line}")
        for line in report.notes:
            print(f"      note: {line}")
    print(f"{len(tables) - failed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

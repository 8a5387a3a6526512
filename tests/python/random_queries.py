#!/usr/bin/env python3
"""Random queries over published tables: does Starmere answer as DuckDB does?

    python random_queries.py grpc://127.0.0.1:7071 [--seeds 500] [--first 0] TABLE ...

All rows of the tables are copied into DuckDB first. Each seed makes one query: up to five tables, joined by keys
and by other columns, inner and outer; conditions in WHERE and ON, with subqueries; plain rows, groups or windows, and
what is made of columns: days of times, CASE over several types; unions; sorted and cut off, where all that is shown is sorted by.

A query that DuckDB has not answered after a second, or that has very many rows, is left out; a query that DuckDB refuses
fails, since nothing was compared. So does a run that compared too few queries, or too few whose answers have rows.
Exit 1 if an answer differs; the seed and both answers are printed.
"""

import argparse
import random
import threading
from collections import Counter
from datetime import datetime
from decimal import Decimal
from typing import Any, Iterator, NamedTuple

import adbc_driver_flightsql.dbapi as flight_sql
import duckdb
import pyarrow

PATIENCE_SECONDS = 1.0
MOST_JOINED = 20_000_000  # rows of a join
MOST_ROWS = 200_000
SHOWN = 3  # differing rows printed for a query
SAMPLES = 40  # values of each column that conditions are made of
LEAST_COMPARED = 0.75  # of all seeds
LEAST_WITH_ROWS = 0.5


class Column(NamedTuple):
    name: str
    kind: str  # "number", "decimal", "text", "date", "time" or "flag": what may be compared with what
    values: list[Any]


class Table(NamedTuple):
    name: str
    columns: list[Column]


def kind_of(data_type: pyarrow.DataType) -> str | None:
    types = pyarrow.types
    if types.is_integer(data_type):
        return "number"
    if types.is_string(data_type) or types.is_large_string(data_type):
        return "text"
    if types.is_date(data_type):
        return "date"
    if types.is_timestamp(data_type):
        return "time"
    if types.is_decimal(data_type):
        return "decimal"
    return "flag" if types.is_boolean(data_type) else None


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, Decimal)):
        return str(value)
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.replace(tzinfo=None)}'"
    text = str(value).replace("'", "''")
    return f"'{text}'" if isinstance(value, str) else f"DATE '{text}'"


class Query:
    """One random query: `sql`, and whether the order of its rows is fixed."""

    def __init__(self, seed: int, tables: list[Table]) -> None:
        self.random = random.Random(seed)
        self.tables = tables
        self.aliases: dict[str, Table] = {}
        source = self.joins()
        conditions = [self.condition() for _ in range(self.random.choice([0, 1, 1, 2]))]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        select, group = self.select()
        shown = [f"c{number}" for number in range(len(select))]
        columns = ", ".join(f"{expression} AS {name}" for expression, name in zip(select, shown))
        distinct = "DISTINCT " if not group and self.random.random() < 0.15 else ""
        self.sql = f"SELECT {distinct}{columns} FROM {source}{where}{group}"
        self.joined = f"SELECT count(*) AS n FROM {source}"
        if not group and len(select) == 1 and self.random.random() < 0.5:
            self.sql += self.union(self.kinds[0])
        self.ordered = self.random.random() < 0.5
        if self.ordered:
            order = [f"{name} {self.random.choice(['ASC', 'DESC'])} NULLS {self.random.choice(['FIRST', 'LAST'])}"
                     for name in self.random.sample(shown, len(shown))]
            self.sql += f" ORDER BY {', '.join(order)}"
            if self.random.random() < 0.7:
                self.sql += f" LIMIT {self.random.choice([1, 3, 10, 100])}"

    def joins(self) -> str:
        text = ""
        for number in range(self.random.choice([1, 2, 2, 3, 3, 4, 5])):
            alias = f"t{number}"
            before = list(self.aliases.items())
            if not before:
                table = self.random.choice(self.tables)
                self.aliases[alias] = table
                text = f"{table.name} {alias}"
                continue
            table, on = self.join(alias, before)
            kind = self.random.choice(["JOIN"] * 5 + ["LEFT JOIN"] * 2 + ["RIGHT JOIN", "FULL JOIN"])
            self.aliases[alias] = table
            if self.random.random() < 0.25:
                on += f" AND {self.comparison(alias)}"
            text += f" {kind} {table.name} {alias} ON {on}"
        return text

    def join(self, alias: str, before: list[tuple[str, Table]]) -> tuple[Table, str]:
        """A table, and what it is joined by: mostly a key that both have, under its own or a role's name."""
        other, left = self.random.choice(before)
        by_key = self.random.random() < 0.85
        pairs = [(column, table, key) for column in left.columns for table in self.tables for key in table.columns
                 if column.kind == key.kind and (not by_key or key.name.endswith("_key") and column.name.endswith(key.name))]
        if not pairs:
            table = self.random.choice(self.tables)
            return table, f"{other}.{left.columns[0].name} IS NOT NULL AND {alias}.{table.columns[0].name} IS NULL"
        column, table, key = self.random.choice(pairs)
        return table, f"{other}.{column.name} = {alias}.{key.name}"

    def column(self, alias: str | None = None, kind: str | None = None) -> tuple[str, Column]:
        places = [(f"{name}.{column.name}", column) for name, table in self.aliases.items()
                  if alias in (None, name) for column in table.columns if kind in (None, column.kind)]
        return self.random.choice(places)

    def comparison(self, alias: str | None = None) -> str:
        place, column = self.column(alias)
        if not column.values or self.random.random() < 0.1:
            return f"{place} IS {self.random.choice(['', 'NOT '])}NULL"
        values = column.values
        if column.kind == "time" and self.random.random() < 0.7:
            place, values = f"CAST({place} AS DATE)", [value.date() for value in values]
            if self.random.random() < 0.2:
                low, high = sorted(self.random.choices(values, k=2))
                return f"{place} {self.random.choice(['', 'NOT '])}BETWEEN {literal(low)} AND {literal(high)}"
        chosen = self.random.choice(values)
        if self.random.random() < 0.2:
            more = ", ".join(literal(value) for value in self.random.choices(values, k=3))
            return f"{place} IN ({literal(chosen)}, {more})"
        return f"{place} {self.random.choice(['=', '=', '<', '<=', '>', '>=', '<>'])} {literal(chosen)}"

    def subquery(self) -> str:
        place, column = self.column()
        table = next(table for table in self.aliases.values() if column in table.columns)
        function, comparison = self.random.choice([("min", "<="), ("max", ">="), ("max", "<"), ("min", ">")])
        return f"{place} {comparison} (SELECT {function}(s.{column.name}) FROM {table.name} s)"

    def condition(self) -> str:
        chance = self.random.random()
        if chance < 0.5:
            return self.comparison()
        if chance < 0.6:
            place, column = self.column()
            table = next(table for table in self.aliases.values() if column in table.columns)
            word = self.random.choice(["IN", "NOT IN"])
            return f"{place} {word} (SELECT s.{column.name} FROM {table.name} s WHERE s.{self.random.choice(table.columns).name} IS NOT NULL)"
        if chance < 0.8:
            return f"({self.comparison()} OR {self.comparison()})"
        return f"({self.subquery()} OR {self.comparison()})"

    def shown(self) -> tuple[str, str]:
        """A column or what is made of one, and its kind."""
        place, column = self.column()
        chance = self.random.random()
        if column.kind == "time" and chance < 0.6:
            return f"CAST({place} AS DATE)", "date"
        if column.kind in ("number", "decimal") and chance < 0.4:
            return self.case(place), column.kind
        return place, column.kind

    def case(self, place: str) -> str:
        """A whole number first: what follows may have more digits."""
        return f"CASE WHEN {self.comparison()} THEN {self.random.choice(['0', '1', 'NULL'])} ELSE {place} END"

    def union(self, kind: str) -> str:
        """Rows of a table, of a type that fits."""
        fitting = {"number": ["number", "decimal"], "decimal": ["decimal", "number"]}
        table, column = self.random.choice([(table, column) for table in self.tables for column in table.columns
                                            if column.kind in fitting.get(kind, [kind])])
        return f" UNION {self.random.choice(['ALL ', ''])}SELECT u.{column.name} FROM {table.name} u"

    def select(self) -> tuple[list[str], str]:
        shown = dict(self.shown() for _ in range(self.random.choice([1, 1, 2, 3, 4])))
        columns, self.kinds = list(shown), list(shown.values())
        chance = self.random.random()
        if chance < 0.5:
            return columns, ""
        if chance < 0.6:
            return [*columns, f"count(*) OVER (PARTITION BY {columns[0]})"], ""
        place, column = self.column()
        totals = self.random.sample(["count(*)", f"count({place})", f"min({place})", f"max({place})"], 2)
        if column.kind == "decimal" or column.kind == "number" and not column.name.endswith("_key"):
            totals.append(f"sum({place})" if self.random.random() < 0.5 else f"sum({self.case(place)})")
        groups = columns[:self.random.choice([0, 1, 2])]
        return [*groups, *totals], f" GROUP BY {', '.join(groups)}" if groups else ""


def plain(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def without_zones(table: pyarrow.Table) -> pyarrow.Table:
    """The same, its times being those of Greenwich without saying so: DuckDB wants another library for zones."""
    types = [pyarrow.timestamp("us") if pyarrow.types.is_timestamp(field.type) else field.type for field in table.schema]
    return table.cast(pyarrow.schema([field.with_type(of) for field, of in zip(table.schema, types)]))


def rows(table: pyarrow.Table) -> Iterator[tuple]:
    return zip(*([plain(value) for value in column.to_pylist()] for column in table.columns))


def answer(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple] | None:
    """DuckDB's answer; none if it takes too long or is too large."""
    cursor = connection.cursor()
    timer = threading.Timer(PATIENCE_SECONDS, cursor.interrupt)
    timer.start()
    try:
        found = cursor.execute(sql).fetchmany(MOST_ROWS + 1)
    except duckdb.InterruptException:
        return None
    finally:
        timer.cancel()
    return None if len(found) > MOST_ROWS else [tuple(map(plain, row)) for row in found]


def difference(ours: list[tuple], theirs: list[tuple], ordered: bool) -> str | None:
    if ours == theirs if ordered else Counter(ours) == Counter(theirs):
        return None
    here, there = (Counter(ours) - Counter(theirs)), (Counter(theirs) - Counter(ours))
    return (f"{len(ours)} rows, DuckDB has {len(theirs)}; only here: {list(here)[:SHOWN]}, "
            f"only there: {list(there)[:SHOWN]}" + ("" if here or there else "; the order differs"))


def too_few(seeds: int, compared: int, with_rows: int) -> Iterator[str]:
    """What a run has to compare, and has not."""
    for what, found, share in [("queries were compared", compared, LEAST_COMPARED),
                               ("answers have rows", with_rows, LEAST_WITH_ROWS)]:
        if seeds == 0 or found < share * seeds:
            yield f"{found} {what}; at least {share:.0%} of {seeds} must be"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("endpoint")
    arguments.add_argument("tables", nargs="+", metavar="TABLE")
    arguments.add_argument("--seeds", type=int, default=500)
    arguments.add_argument("--first", type=int, default=0)
    options = arguments.parse_args()

    duck, tables = duckdb.connect(), []
    duck.execute("SET threads = 1")
    passed = failed = left_out = with_rows = 0
    with flight_sql.connect(options.endpoint, autocommit=True) as connection, connection.cursor() as cursor:

        def ask(sql: str) -> pyarrow.Table:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()

        for name in options.tables:
            content = without_zones(ask(f"SELECT * FROM {name}"))
            copied = name.replace(".", "_")
            duck.register("content", content)
            duck.execute(f"CREATE TABLE {copied} AS SELECT * FROM content")
            columns = []
            for field in content.schema:
                kind = kind_of(field.type)
                if kind is not None:
                    # Sorted, so that a seed's query does not depend on how rows lie in files.
                    values = sorted(content[field.name].drop_null().unique().to_pylist())
                    sampled = random.Random(field.name).sample(values, min(SAMPLES, len(values)))
                    columns.append(Column(field.name, kind, sampled))
            tables.append(Table(name, columns))
        for seed in range(options.first, options.first + options.seeds):
            query = Query(seed, tables)
            theirs_sql, joined = query.sql, query.joined
            for name in sorted(options.tables, key=len, reverse=True):
                theirs_sql = theirs_sql.replace(f"{name} ", f"{name.replace('.', '_')} ")
                joined = joined.replace(f"{name} ", f"{name.replace('.', '_')} ")
            # DuckDB counts billions of joined rows without making them; whoever makes them takes minutes.
            try:
                count = answer(duck, joined)
                theirs = answer(duck, theirs_sql) if count and int(count[0][0]) <= MOST_JOINED else None
                if theirs is None:
                    left_out += 1
                    continue
                with_rows += bool(theirs)
                wrong = difference(list(rows(ask(query.sql))), theirs, query.ordered)
            except duckdb.Error as error:
                wrong = f"DuckDB refuses it: {error}"
            except flight_sql.Error as error:
                wrong = str(error)
            passed, failed = passed + (wrong is None), failed + (wrong is not None)
            if wrong is not None:
                print(f"seed {seed}: {wrong}\n    {query.sql}", flush=True)
    print(f"{left_out} left out; {with_rows} answers have rows")
    for few in too_few(options.seeds, passed + failed, with_rows):
        print(few)
        failed += 1
    print(f"{passed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

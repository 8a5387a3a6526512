#!/usr/bin/env python3
"""Does a Starmere server behave as ADBC's stock Flight SQL client expects?

    python conformance.py grpc://127.0.0.1:7071 http://127.0.0.1:7070 [--user ana --password …]

Asks for nothing in particular: which tables there are is read from the server, and data is made by the
queries themselves. At least one table must be served. With `--user`, wrong and missing credentials must be
refused; without it, the server must let in everybody, whatever name they give. The same server's HTTP only says
which queries run. Exit 0 if all checks pass.
"""

import argparse
import base64
import datetime
import decimal
import json
import os
import re
import threading
import time
import traceback
import urllib.request
import warnings
from typing import Any, Callable, Iterator, NamedTuple

import adbc_driver_flightsql.dbapi as flight_sql
import adbc_driver_manager
import pyarrow
import pyarrow.compute

SYSTEM_SCHEMAS = {"information_schema"}
DIGITS = "WITH d(n) AS (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9))"
MILLION = f"""{DIGITS} SELECT CAST(a.n + 10 * b.n + 100 * c.n + 1000 * e.n + 10000 * f.n + 100000 * g.n AS BIGINT) AS n
    FROM d a, d b, d c, d e, d f, d g"""
ENDLESS = f"""{DIGITS} SELECT sum(a.n * b.n + c.n * e.n + f.n * g.n + h.n * i.n + j.n * k.n + l.n) AS n
    FROM d a, d b, d c, d e, d f, d g, d h, d i, d j, d k, d l"""
CANCEL_SECONDS = 15.0
BEGIN_SECONDS = 30.0
CHECK_SECONDS = 120.0
BLAMES_THE_SERVER = {adbc_driver_manager.AdbcStatusCode.INTERNAL, adbc_driver_manager.AdbcStatusCode.UNKNOWN,
                     adbc_driver_manager.AdbcStatusCode.IO}


class Server(NamedTuple):
    endpoint: str
    http: str
    user: str | None
    password: str

    def connect(self, **credentials: str) -> flight_sql.Connection:
        if not credentials and self.user:
            credentials = {"username": self.user, "password": self.password}
        return flight_sql.connect(self.endpoint, db_kwargs=credentials or None, autocommit=True)

    def anonymous(self) -> flight_sql.Connection:
        return flight_sql.connect(self.endpoint, autocommit=True)

    def running(self) -> list[str]:
        """Texts of this user's queries that run."""
        request = urllib.request.Request(f"{self.http}/v1/queries")
        if self.user:
            words = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {words}")
        with urllib.request.urlopen(request, timeout=BEGIN_SECONDS) as answer:
            return [query["sql"] for query in json.load(answer)["queries"]]


class Table(NamedTuple):
    catalog: str
    schema: str
    name: str
    kind: str
    columns: tuple[str, ...] = ()

    @property
    def quoted(self) -> str:
        return f'"{self.catalog}"."{self.schema}"."{self.name}"'


CHECKS: list[Callable[[Server], None]] = []
LEFT_OPEN: list[Any] = []


def check(function: Callable[[Server], None]) -> Callable[[Server], None]:
    CHECKS.append(function)
    return function


def ask(connection: flight_sql.Connection, sql: str, parameters: list | None = None) -> pyarrow.Table:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def value(connection: flight_sql.Connection, expression: str, parameters: list | None = None) -> Any:
    return ask(connection, f"SELECT {expression} AS v", parameters)["v"][0].as_py()


def refusal(act: Callable[[], Any]) -> flight_sql.Error:
    """The error that `act` raises; not raising one is a failure."""
    try:
        answer = act()
    except flight_sql.Error as error:
        return error
    raise AssertionError(f"should have been refused, but answered {str(answer)[:200]}")


def tables(connection: flight_sql.Connection, depth: str = "tables", **filters: Any) -> list[Table]:
    found = []
    for catalog in connection.adbc_get_objects(depth=depth, **filters).read_all().to_pylist():
        for schema in catalog["catalog_db_schemas"] or []:
            for one in schema["db_schema_tables"] or []:
                columns = tuple(column["column_name"] for column in one["table_columns"] or [])
                found.append(Table(catalog["catalog_name"], schema["db_schema_name"], one["table_name"],
                                   one["table_type"], columns))
    return found


def user_tables(connection: flight_sql.Connection, depth: str = "tables") -> list[Table]:
    found = [one for one in tables(connection, depth) if one.schema not in SYSTEM_SCHEMAS]
    assert found, "the server serves no tables: build a project first"
    return found


# Who may come in.


@check
def connects_and_answers(server: Server) -> None:
    with server.connect() as connection:
        assert value(connection, "1 + 1") == 2


@check
def credentials_decide(server: Server) -> None:
    def enter(connect: Callable[[], flight_sql.Connection]) -> int:
        with connect() as connection:
            return value(connection, "1")

    if server.user is None:
        assert enter(lambda: server.connect(username="anybody", password="anything")) == 1
        return
    refused = [lambda: enter(server.anonymous),
               lambda: enter(lambda: server.connect(username=server.user, password=server.password + "x")),
               lambda: enter(lambda: server.connect(username="nobody-of-that-name", password=server.password))]
    for act in refused:
        error = refusal(act)
        assert error.status_code in (adbc_driver_manager.AdbcStatusCode.UNAUTHENTICATED,
                                     adbc_driver_manager.AdbcStatusCode.UNAUTHORIZED), error
        assert server.password not in str(error), "the error repeats the password"


@check
def many_connections_get_their_own_answers(server: Server) -> None:
    answers: dict[int, Any] = {}

    def one(number: int) -> None:
        with server.connect() as connection:
            for _ in range(5):
                answers[number] = value(connection, f"{number} * 1000")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: number * 1000 for number in range(8)}, answers


# What there is.


@check
def info_names_the_server(server: Server) -> None:
    with server.connect() as connection:
        info = connection.adbc_get_info()
        assert info.get("vendor_name"), info
        assert info.get("vendor_version"), info
        assert info.get("driver_name"), info


@check
def objects_agree_at_all_depths(server: Server) -> None:
    with server.connect() as connection:
        deep = user_tables(connection, "all")
        shallow = user_tables(connection, "tables")
        assert [one._replace(columns=()) for one in deep] == shallow, "depths `all` and `tables` differ"
        schemas = connection.adbc_get_objects(depth="db_schemas").read_all().to_pylist()
        pairs = {(c["catalog_name"], s["db_schema_name"]) for c in schemas for s in c["catalog_db_schemas"] or []}
        assert {(one.catalog, one.schema) for one in deep} <= pairs, "a table's schema is not listed"
        catalogs = connection.adbc_get_objects(depth="catalogs").read_all().to_pylist()
        assert {catalog for catalog, _ in pairs} <= {c["catalog_name"] for c in catalogs}
        for one in deep:
            assert one.columns, f"{one.quoted} has no columns"
            assert len(set(one.columns)) == len(one.columns), f"{one.quoted} repeats a column"
        assert len({one.quoted for one in deep}) == len(deep), "a table is listed twice"


@check
def columns_are_numbered_from_one(server: Server) -> None:
    with server.connect() as connection:
        for catalog in connection.adbc_get_objects(depth="all").read_all().to_pylist():
            for schema in catalog["catalog_db_schemas"] or []:
                for one in schema["db_schema_tables"] or []:
                    numbers = [column["ordinal_position"] for column in one["table_columns"]]
                    assert numbers == list(range(1, len(numbers) + 1)), (one["table_name"], numbers)


@check
def filters_select(server: Server) -> None:
    with server.connect() as connection:
        everything = tables(connection)
        one = user_tables(connection)[0]
        exact = tables(connection, catalog_filter=one.catalog, db_schema_filter=one.schema, table_name_filter=one.name)
        assert one in exact, exact
        assert {(t.catalog, t.schema) for t in exact} == {(one.catalog, one.schema)}, exact
        prefix = tables(connection, table_name_filter=one.name[0] + "%")
        assert sorted(prefix) == sorted(t for t in everything if t.name.startswith(one.name[0])), prefix
        assert tables(connection, table_name_filter="no_table_has_this_name") == []
        assert tables(connection, catalog_filter="no_catalog_has_this_name") == []
        kinds = {t.kind for t in everything}
        for kind in kinds:
            assert sorted(tables(connection, table_types_filter=[kind])) == sorted(
                t for t in everything if t.kind == kind), kind


@check
def table_types_cover_the_tables(server: Server) -> None:
    with server.connect() as connection:
        kinds = connection.adbc_get_table_types()
        assert kinds and len(set(kinds)) == len(kinds), kinds
        assert {one.kind for one in tables(connection)} <= set(kinds), kinds


@check
def table_schema_is_what_a_query_returns(server: Server) -> None:
    with server.connect() as connection:
        for one in user_tables(connection, "all"):
            promised = connection.adbc_get_table_schema(one.name, catalog_filter=one.catalog,
                                                        db_schema_filter=one.schema)
            returned = ask(connection, f"SELECT * FROM {one.quoted} LIMIT 0").schema
            assert promised.names == returned.names == list(one.columns), (one, promised.names, returned.names)
            assert promised.types == returned.types, (one, promised, returned)


@check
def every_table_can_be_read(server: Server) -> None:
    with server.connect() as connection:
        for one in user_tables(connection, "all"):
            count = ask(connection, f"SELECT count(*) AS n FROM {one.quoted}")["n"][0].as_py()
            rows = ask(connection, f"SELECT * FROM {one.quoted} LIMIT 10")
            assert rows.num_rows == min(count, 10), (one, count, rows.num_rows)


@check
def no_views_on_the_wire(server: Server) -> None:
    """Older clients do not know Arrow's view types."""
    def parts(of: pyarrow.DataType) -> Iterator[pyarrow.DataType]:
        yield of
        for number in range(of.num_fields):
            yield from parts(of.field(number).type)

    with server.connect() as connection:
        schemas = [ask(connection, f"SELECT * FROM {one.quoted} LIMIT 1").schema for one in user_tables(connection)]
        schemas.append(ask(connection, "SELECT upper('a') AS a, arrow_cast('b', 'Utf8View') AS b").schema)
        for schema in schemas:
            for field in schema:
                for of in parts(field.type):
                    assert not pyarrow.types.is_string_view(of) and not pyarrow.types.is_binary_view(of), field


# What comes back.


@check
def types_arrive_as_they_are(server: Server) -> None:
    utc = datetime.timezone.utc
    expected = {
        "true": True,
        "CAST(NULL AS BOOLEAN)": None,
        "CAST(-128 AS TINYINT)": -128,
        "CAST(-32768 AS SMALLINT)": -32768,
        "CAST(2147483647 AS INT)": 2147483647,
        "CAST(-9223372036854775807 AS BIGINT)": -9223372036854775807,
        "CAST(1.5 AS REAL)": 1.5,
        "CAST(0.1 AS DOUBLE)": 0.1,
        "CAST('12345678901234567890.12' AS DECIMAL(38, 2))": decimal.Decimal("12345678901234567890.12"),
        "CAST('-0.01' AS DECIMAL(10, 2))": decimal.Decimal("-0.01"),
        "'Zürich — 東京 🛫'": "Zürich — 東京 🛫",
        "''": "",
        "CAST(NULL AS VARCHAR)": None,
        "X'00FF'": b"\x00\xff",
        "DATE '2024-02-29'": datetime.date(2024, 2, 29),
        "DATE '0001-01-01'": datetime.date(1, 1, 1),
        "DATE '9999-12-31'": datetime.date(9999, 12, 31),
        "arrow_cast('2024-02-29T12:34:56.789012Z', 'Timestamp(Microsecond, Some(\"UTC\"))')":
            datetime.datetime(2024, 2, 29, 12, 34, 56, 789012, tzinfo=utc),
        "arrow_cast('2024-02-29T12:34:56', 'Timestamp(Second, None)')": datetime.datetime(2024, 2, 29, 12, 34, 56),
        "make_array(1, 2, NULL)": [1, 2, None],
        "named_struct('a', 1, 'b', 'x')": {"a": 1, "b": "x"},
    }
    with server.connect() as connection:
        for expression, wanted in expected.items():
            got = value(connection, expression)
            assert got == wanted and type(got) is type(wanted), f"{expression} is {got!r}, not {wanted!r}"
        assert ask(connection, "SELECT NULL AS v")["v"].to_pylist() == [None]


@check
def names_arrive_as_they_are(server: Server) -> None:
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("""SELECT 1 AS "Größe in m²", 2 AS "SELECT", 3 AS b""")
        assert [column[0] for column in cursor.description] == ["Größe in m²", "SELECT", "b"], cursor.description
        assert cursor.fetchall() == [(1, 2, 3)]


@check
def an_empty_result_has_its_schema(server: Server) -> None:
    with server.connect() as connection:
        none = ask(connection, "SELECT 1 AS a, 'x' AS b WHERE false")
        assert none.num_rows == 0 and none.column_names == ["a", "b"], none
        for one in user_tables(connection):
            assert ask(connection, f"SELECT * FROM {one.quoted} WHERE 1 = 0").num_rows == 0


@check
def a_large_result_is_whole(server: Server) -> None:
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(MILLION)
        rows = total = batches = 0
        for batch in cursor.fetch_record_batch():
            rows, batches = rows + batch.num_rows, batches + 1
            total += pyarrow.compute.sum(batch["n"]).as_py() or 0
        assert (rows, total) == (1_000_000, 999_999 * 500_000), (rows, total)
        assert batches > 1, "a million rows in one message"


@check
def large_values_arrive(server: Server) -> None:
    """Beyond gRPC's usual limit of 4 MiB for a message, as a value and as a batch."""
    with server.connect() as connection:
        assert len(value(connection, "repeat('x', 5000000)")) == 5_000_000
        wide = ask(connection, f"SELECT n, repeat('abcdefgh', 250) AS text FROM ({MILLION}) AS m WHERE n < 20000")
        assert wide.num_rows == 20_000
        assert set(pyarrow.compute.binary_length(wide["text"]).to_pylist()) == {2000}


@check
def a_result_left_half_read_harms_nobody(server: Server) -> None:
    with server.connect() as connection:
        for _ in range(5):
            with connection.cursor() as cursor:
                cursor.execute(MILLION)
                assert cursor.fetchone() is not None
        assert value(connection, "7") == 7


@check
def partitions_hold_the_result(server: Server) -> None:
    with server.connect() as connection, connection.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions(f"SELECT n FROM ({MILLION}) AS m WHERE n < 1000")
        assert schema.names == ["n"], schema
        rows = []
        for partition in partitions:
            with connection.cursor() as reader:
                reader.adbc_read_partition(partition)
                rows += [row[0] for row in reader.fetchall()]
        assert sorted(rows) == list(range(1000))


# Prepared statements.


@check
def a_prepared_statement_takes_new_values(server: Server) -> None:
    with server.connect() as connection, connection.cursor() as cursor:
        sql = f"SELECT count(*) AS n FROM ({MILLION}) AS m WHERE n < $1"
        for limit in (10, 0, 1000, 10):
            cursor.execute(sql, (limit,))
            assert cursor.fetchone() == (limit,), limit


@check
def parameters_of_many_types(server: Server) -> None:
    cases = [
        ("CAST($1 AS BIGINT) + 1", 41, 42),
        ("CAST($1 AS VARCHAR) || '!'", "it's", "it's!"),
        ("CAST($1 AS VARCHAR) || '!'", "'; DROP TABLE x; --", "'; DROP TABLE x; --!"),
        ("CAST($1 AS DOUBLE) * 2", 1.25, 2.5),
        ("NOT CAST($1 AS BOOLEAN)", True, False),
        ("CAST($1 AS DATE)", datetime.date(2024, 2, 29), datetime.date(2024, 2, 29)),
        ("CAST($1 AS BIGINT)", None, None),
    ]
    with server.connect() as connection:
        for expression, given, wanted in cases:
            got = value(connection, expression, [given])
            assert got == wanted, f"{expression} of {given!r} is {got!r}, not {wanted!r}"
        both = ask(connection, "SELECT CAST($1 AS BIGINT) - CAST($2 AS BIGINT) AS v", [10, 3])
        assert both["v"].to_pylist() == [7], "two parameters, in their order"


@check
def a_parameter_filters_a_table(server: Server) -> None:
    """In the place where the server must find its type by itself."""
    with server.connect() as connection:
        for one in user_tables(connection, "all"):
            schema = ask(connection, f"SELECT * FROM {one.quoted} LIMIT 0").schema
            for field in schema:
                if pyarrow.types.is_string(field.type) or pyarrow.types.is_integer(field.type):
                    column = f'"{field.name}"'
                    sample = ask(connection,
                                 f"SELECT {column} AS v FROM {one.quoted} WHERE {column} IS NOT NULL LIMIT 1")
                    if sample.num_rows == 1:
                        given = sample["v"][0].as_py()
                        hits = ask(connection, f"SELECT count(*) AS v FROM {one.quoted} WHERE {column} = $1", [given])
                        assert hits["v"][0].as_py() >= 1, (one, field, given)
                        return
        raise AssertionError("no table has a row with text or an integer")


@check
def a_statement_says_its_schema_before_it_runs(server: Server) -> None:
    with server.connect() as connection, connection.cursor() as cursor:
        schema = cursor.adbc_execute_schema(f"{ENDLESS}")
        assert schema.names == ["n"], schema
        parameters = cursor.adbc_prepare("SELECT CAST($1 AS BIGINT) AS a, CAST($2 AS VARCHAR) AS b")
        assert parameters is None or len(parameters) == 2, parameters


# What goes wrong.


@check
def a_syntax_error_says_where(server: Server) -> None:
    with server.connect() as connection:
        error = refusal(lambda: ask(connection, "SELECT 1,\n       2 FRM nowhere WHERE"))
        assert re.search(r"line\W*2\b.*?column\W*\d+", str(error), re.I | re.S), f"no position in: {error}"
        assert error.status_code not in BLAMES_THE_SERVER, (error.status_code, error)
        assert value(connection, "1") == 1, "the connection is of no use any more"


@check
def what_is_not_there_is_named(server: Server) -> None:
    with server.connect() as connection:
        one = user_tables(connection)[0]
        for sql, name in [(f"SELECT no_such_column FROM {one.quoted}", "no_such_column"),
                          ("SELECT * FROM no_such_table", "no_such_table"),
                          ("SELECT no_such_function(1)", "no_such_function")]:
            error = refusal(lambda: ask(connection, sql))
            assert name in str(error), f"`{name}` is not in: {error}"
            assert error.status_code not in BLAMES_THE_SERVER, (error.status_code, error)


@check
def an_error_while_running_arrives(server: Server) -> None:
    with server.connect() as connection:
        refusal(lambda: ask(connection, f"SELECT sum(1 / (n - 999999)) AS v FROM ({MILLION}) AS m"))
        refusal(lambda: ask(connection, "SELECT CAST(x AS INT) AS v FROM (VALUES ('1'), ('one')) AS t(x)"))
        assert value(connection, "1") == 1


@check
def nothing_can_be_changed(server: Server) -> None:
    with server.connect() as connection:
        one = user_tables(connection)[0]
        for sql in [f"DROP TABLE {one.quoted}", f"DELETE FROM {one.quoted}", "CREATE TABLE made_up AS SELECT 1 AS a",
                    "CREATE VIEW made_up AS SELECT 1 AS a", f"INSERT INTO {one.quoted} SELECT * FROM {one.quoted}",
                    "COPY (SELECT 1 AS a) TO '/tmp/starmere-conformance.csv'",
                    "CREATE EXTERNAL TABLE made_up STORED AS CSV LOCATION '/etc/passwd'"]:
            refusal(lambda: ask(connection, sql))
        assert one in tables(connection)


@check
def a_running_query_can_be_cancelled(server: Server) -> None:
    connection = server.connect()
    cursor = connection.cursor()
    runs = threading.Event()
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            cursor.execute(ENDLESS)
            runs.set()
            cursor.fetchall()
            outcome.append(None)
        except BaseException as error:  # handed to the main thread
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    # `execute` prepares the statement, asks for its flight and then for its rows, and the server lists the query in
    # each of these calls. A cancel ends the call that the driver is in; one that comes between two calls is lost, and
    # the next call runs on. So the query is cancelled once `execute` has returned, and the server lists it again.
    assert runs.wait(BEGIN_SECONDS), f"has not begun after {BEGIN_SECONDS:.0f} s: {outcome}"
    until = time.monotonic() + BEGIN_SECONDS
    while ENDLESS not in server.running():
        assert not outcome, f"ended before it could be cancelled: {outcome}"
        assert time.monotonic() < until, f"has not begun after {BEGIN_SECONDS:.0f} s"
        time.sleep(0.01)
    cursor.adbc_cancel()
    thread.join(CANCEL_SECONDS)
    if thread.is_alive():
        LEFT_OPEN.append((connection, cursor))  # closing them would wait for the query
        raise AssertionError(f"still running {CANCEL_SECONDS:.0f} s after it was cancelled")
    assert isinstance(outcome[0], flight_sql.Error), outcome
    began = time.perf_counter()
    assert value(connection, "1") == 1
    assert time.perf_counter() - began < CANCEL_SECONDS, "the cancelled query still holds the server"
    until_none_runs(server)
    cursor.close()
    connection.close()


@check
def a_query_can_be_cancelled_at_any_moment(server: Server) -> None:
    """While it is prepared, planned or run: a client that does not know which cancels until it returns."""
    for delay in [number / 1000 for number in range(0, 10)]:
        with server.connect() as connection, connection.cursor() as cursor:
            ended = threading.Event()

            def run() -> None:
                try:
                    cursor.execute(ENDLESS)
                    cursor.fetchall()
                except flight_sql.Error:
                    ended.set()

            threading.Thread(target=run, daemon=True).start()
            until = time.monotonic() + CANCEL_SECONDS
            time.sleep(delay)
            while not ended.is_set():
                if time.monotonic() > until:
                    LEFT_OPEN.append((connection, cursor))
                    raise AssertionError(f"still running {CANCEL_SECONDS:.0f} s after it was cancelled")
                cursor.adbc_cancel()
                ended.wait(0.05)
    until_none_runs(server)


def until_none_runs(server: Server) -> None:
    """The server has ended what its clients have left."""
    until = time.monotonic() + CANCEL_SECONDS
    while ENDLESS in server.running():
        assert time.monotonic() < until, f"the query is still listed {CANCEL_SECONDS:.0f} s after it was cancelled"
        time.sleep(0.01)


def finding(one: Callable[[Server], None], server: Server) -> str | None:
    """What is wrong, if anything; a check that does not end is left behind."""
    found: list[str | None] = []

    def run() -> None:
        try:
            one(server)
            found.append(None)
        except Exception as error:  # whatever goes wrong is this check's failure
            where = traceback.extract_tb(error.__traceback__)[-1]
            first = str(error).strip().split("\n\n")[0] or where.line
            found.append(f"line {where.lineno}: {type(error).__name__}: {first[:1000]}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(CHECK_SECONDS)
    return found[0] if found else f"has not ended after {CHECK_SECONDS:.0f} s"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("endpoint", help="such as grpc://127.0.0.1:7071")
    arguments.add_argument("http", help="of the same server, such as http://127.0.0.1:7070")
    arguments.add_argument("--user", help="a user whom the server knows")
    arguments.add_argument("--password", default="")
    arguments.add_argument("--only", metavar="TEXT", help="only checks whose name contains this")
    options = arguments.parse_args()

    warnings.simplefilter("error")  # a warning of the driver is a finding, not noise
    server, failed = Server(options.endpoint, options.http, options.user, options.password), 0
    chosen = [one for one in CHECKS if not options.only or options.only in one.__name__]
    for one in chosen:
        wrong = finding(one, server)
        failed += wrong is not None
        print(f"{'FAIL' if wrong else 'ok  '}  {one.__name__.replace('_', ' ')}", flush=True)
        if wrong:
            print(f"      {wrong}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed", flush=True)
    os._exit(1 if failed or not chosen else 0)  # what was left open is not waited for


if __name__ == "__main__":
    main()

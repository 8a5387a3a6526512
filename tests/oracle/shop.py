"""The right answers of the example `shop`, by DuckDB, compared with the generator's.

    pip install duckdb pyarrow
    python tests/oracle/shop.py PROJECT_DIR

Prints the star query's result as CSV. Exit status 1 when any file of `expected/` says something else.
What lines mean is all in shop.sql; here they are only read.
"""

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow as pa

SOURCES = {"customers": "customer_files", "products": "product_files", "orders": "order_files"}
ANSWERS = [
    "revenue_by_segment_month",
    "revenue_by_department",
    "counts",
    "customer_versions",
    "product_versions",
    "category_versions",
]


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def is_strict_json(text):
    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def lines_of(path, stream, source, topic):
    position = 0
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = None
        yield stream, source, topic, position, text, text is not None and is_strict_json(text)
        position += len(line) + 1


def read(project, with_http):
    for stream, source in SOURCES.items():
        folder = project / "events" / stream
        for path in sorted(folder.rglob("*.jsonl")):
            yield from lines_of(path, stream, source, path.relative_to(folder).as_posix())
    if with_http:
        yield from lines_of(project / "events-http" / "orders.jsonl", "orders", "http", "")


def answers(project, with_http):
    """Header and rows of each answer, as text."""
    connection = duckdb.connect()
    columns = list(zip(*read(project, with_http)))
    names = ["stream", "source", "topic", "position", "text", "strict"]
    types = [pa.string(), pa.string(), pa.string(), pa.int64(), pa.string(), pa.bool_()]
    arrays = [pa.array(column, type) for column, type in zip(columns, types)]
    connection.register("lines", pa.Table.from_arrays(arrays, names=names))
    connection.execute(Path(__file__).with_suffix(".sql").read_text())
    for answer in ANSWERS:
        result = connection.execute(f"SELECT COLUMNS(*)::TEXT FROM {answer}")
        header = [column[0] for column in result.description]
        yield answer, header, [tuple(value or "" for value in row) for row in result.fetchall()]


def differences(path, header, rows):
    with path.open(newline="", encoding="utf-8") as file:
        expected_header, *expected_rows = csv.reader(file)
    if header != expected_header:
        yield f"columns {header}, expected {expected_header}"
    expected, found = Counter(map(tuple, expected_rows)), Counter(rows)
    yield from (f"only in the generator's answer: {row}" for row in (expected - found).elements())
    yield from (f"only in DuckDB's answer: {row}" for row in (found - expected).elements())


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    project, same = Path(sys.argv[1]), True
    for with_http, folder in [(False, "expected"), (True, "expected/with_http")]:
        for answer, header, rows in answers(project, with_http):
            if answer == ANSWERS[0] and not with_http:
                writer = csv.writer(sys.stdout, lineterminator="\n")
                writer.writerows([header, *rows])
            found = list(differences(project / folder / f"{answer}.csv", header, rows))
            print(f"{folder}/{answer}.csv: {len(rows)} rows, {len(found)} differences", file=sys.stderr)
            for difference in found[:10]:
                print(f"  {difference}", file=sys.stderr)
            same = same and not found
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()

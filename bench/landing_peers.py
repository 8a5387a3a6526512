#!/usr/bin/env python3
"""What others take to land the same events. `landing.py` runs this as a process of its own, to measure it.

    python landing_peers.py duckdb     EVENTS OUT.parquet     # NDJSON to zstd Parquet: envelope columns, payload verbatim
    python landing_peers.py clickhouse EVENTS OUT.parquet     # the same
    python landing_peers.py polars     EVENTS OUT.parquet     # the same
    python landing_peers.py consumer   BROKER TOPIC           # reads all of a topic and discards it
    python landing_peers.py producer   BROKER TOPIC EVENTS    # fills a topic of four partitions

None of them promises anything: no positions, no digests, nothing that is durable when they end.
"""

import argparse
import itertools
from datetime import datetime, timezone
from pathlib import Path

from measuring import threads

PARTITIONS = 4
#: As Starmere's lake has it (lake/src/delta/write.rs).
ZSTD_LEVEL = 1


def duckdb_lands(events: str, target: str) -> None:
    import duckdb
    connection = duckdb.connect(config={"threads": threads()})
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(f"""COPY (
        SELECT e.id AS event_id, e.type AS event_type, e.version AS event_version, e.occurred_at AS occurred_at,
               now() AS ingested_at, e.customer.id AS subject, 'files' AS source, filename AS topic, 0 AS "partition",
               payload
        FROM (SELECT from_json(json, '{{"id": "VARCHAR", "type": "VARCHAR", "version": "INTEGER",
                               "occurred_at": "TIMESTAMPTZ", "customer": {{"id": "VARCHAR"}}}}') AS e, filename,
                     encode(CAST(json AS VARCHAR)) AS payload
              FROM read_json_objects('{events}/*.jsonl', format = 'newline_delimited', filename = true))
    ) TO '{target}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL})""")


def clickhouse_lands(events: str, target: str) -> None:
    import chdb
    chdb.query(f"""
        SELECT tupleElement(e, 'id') AS event_id, tupleElement(e, 'type') AS event_type,
               tupleElement(e, 'version') AS event_version,
               parseDateTime64BestEffort(tupleElement(e, 'occurred_at'), 6, 'UTC') AS occurred_at,
               now64(6) AS ingested_at, tupleElement(tupleElement(e, 'customer'), 'id') AS subject,
               'files' AS source, _file AS topic, 0 AS "partition", json AS payload
        FROM (SELECT json, _file, JSONExtract(json, 'Tuple(id String, type String, version Int32, occurred_at String,
                     customer Tuple(id String))') AS e
              FROM file('{events}/*.jsonl', 'JSONAsString', 'json String'))
        INTO OUTFILE '{target}' TRUNCATE FORMAT Parquet
        SETTINGS max_threads = {threads()}, output_format_parquet_compression_method = 'zstd',
                 output_format_compression_level = {ZSTD_LEVEL}""")


def polars_lands(events: str, target: str) -> None:
    import polars
    from polars import col, lit

    form = polars.Struct({"id": polars.String, "type": polars.String, "version": polars.Int32,
                          "occurred_at": polars.String, "customer": polars.Struct({"id": polars.String})})
    event = col("line").str.json_decode(form)
    (polars.scan_lines(f"{events}/*.jsonl", include_file_paths="topic")
     .select(event.alias("e"), "topic", col("line").cast(polars.Binary).alias("payload"))
     .select(col("e").struct.field("id").alias("event_id"), col("e").struct.field("type").alias("event_type"),
             col("e").struct.field("version").alias("event_version"),
             col("e").struct.field("occurred_at").str.to_datetime(time_unit="us", time_zone="UTC"),
             lit(datetime.now(timezone.utc)).alias("ingested_at"),
             col("e").struct.field("customer").struct.field("id").alias("subject"), lit("files").alias("source"),
             "topic", lit(0, polars.Int32).alias("partition"), "payload")
     .sink_parquet(target, compression="zstd", compression_level=ZSTD_LEVEL, maintain_order=False, engine="streaming"))


def consumes(broker: str, topic: str) -> None:
    from confluent_kafka import Consumer, KafkaError, TopicPartition
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "bench", "enable.auto.commit": False,
                         "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    events = ended = 0
    while ended < PARTITIONS:
        for message in consumer.consume(10_000, timeout=1):
            if message.error() is None:
                events += 1
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended += 1
            else:
                raise SystemExit(str(message.error()))
    print(events)
    consumer.close()


def produces(broker: str, topic: str, events: str) -> None:
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": broker, "compression.type": "lz4", "linger.ms": 50,
                         "batch.size": 1_000_000, "queue.buffering.max.messages": 100_000})
    partitions = itertools.cycle(range(PARTITIONS))
    for path in sorted(Path(events).glob("*.jsonl")):
        with path.open("rb") as lines:
            for line in lines:
                while True:
                    try:
                        producer.produce(topic, line.rstrip(b"\n"), partition=next(partitions))
                        break
                    except BufferError:
                        producer.poll(0.1)
        producer.poll(0)
    if left := producer.flush(120):
        raise SystemExit(f"{left} events were not taken")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("what", choices=["duckdb", "clickhouse", "polars", "consumer", "producer"])
    arguments.add_argument("with_what", nargs="+")
    options = arguments.parse_args()
    {"duckdb": duckdb_lands, "clickhouse": clickhouse_lands, "polars": polars_lands, "consumer": consumes,
     "producer": produces}[options.what](*options.with_what)


if __name__ == "__main__":
    main()

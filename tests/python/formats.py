#!/usr/bin/env python3
"""The same orders in every format, each written by a library that is not ours: the same fact comes out.

    python formats.py target/debug/starmere DIR

Files of CSV (Python's), Parquet (pyarrow's) and Avro (fastavro's); Confluent's wire format over Kafka with Avro,
Protocol Buffers (Google's) and JSON; CloudEvents over HTTP and Kafka as their SDK makes them; Debezium's change
events and its outbox; CSV over HTTP; tombstones that mean a delete. The registry is gone before the facts are built:
the lake keeps what it needs. Exit 1 if a check fails.
"""

import csv
import datetime
import decimal
import io
import json
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable

import fastavro
import pyarrow
import pyarrow.parquet
from broker import kafka_broker, schema_registry
from cloudevents.v1.conversion import to_binary, to_structured
from cloudevents.v1.http import CloudEvent
from cloudevents.v1.kafka import to_binary as to_kafka_binary
from cloudevents.v1.kafka import to_structured as to_kafka_structured
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from demo import Server, ask  # noqa: E402

COUNT = 300
BEGIN = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
TEXTS = ["plain", 'with "quotes"; and more', "two\nlines", "Zürich 東京", None, "0012"]
AVRO_ORDER = {
    "type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "order_id", "type": "string"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "quantity", "type": "long"},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}},
        {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}
# The second version of the registry's schema: other order, one field more.
AVRO_ORDER_2 = AVRO_ORDER | {"fields": [{"name": "channel", "type": "string", "default": "web"}, *AVRO_ORDER["fields"][::-1]]}
MONEY_PROTO = 'syntax = "proto3"; package shop; message Money { string amount = 1; }'
ORDER_PROTO = """syntax = "proto3"; package shop;
import "money.proto"; import "google/protobuf/timestamp.proto";
message Nothing {}
message Order { string order_id = 1; optional string note = 2; int64 quantity = 3; Money money = 4;
                google.protobuf.Timestamp placed_at = 5; }"""
FIELDS = ("order_id", "note", "quantity", "amount", "placed_at")


def order(number: int) -> dict[str, Any]:
    return {
        "order_id": f"o{number:04}",
        "note": TEXTS[number % len(TEXTS)],
        "quantity": number * 7 - 50,
        "amount": decimal.Decimal(number * 137 - 999) / 100,
        "placed_at": BEGIN + datetime.timedelta(minutes=number, microseconds=number),
    }


ORDERS = [order(number) for number in range(COUNT)]
EXPECTED = [tuple(row[name] for name in FIELDS) for row in ORDERS]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it."""
    return row | {"amount": str(row["amount"]), "placed_at": row["placed_at"].isoformat()}


def stream(name: str, head: str, envelope: str, prefix: str = "", event: str = "order", amount: str = "amount") -> str:
    return f"""stream: {name}
domain: d
{head}
envelope: {{ {envelope} }}
events:
  {event}:
    versions:
      1:
        fields:
          order_id: {{ path: {prefix}order_id, type: string, required: true }}
          note: {{ path: {prefix}note, type: string }}
          quantity: {{ path: {prefix}quantity, type: bigint }}
          amount: {{ path: {prefix}{amount}, type: "decimal(18,2)" }}
          placed_at: {{ path: {prefix}placed_at, type: timestamp }}
"""


CONSTANT = "id: order_id, constant_type: order, time: placed_at"
STREAMS = {
    "csv": stream("csv", "format: csv\ndelimiter: ';'", CONSTANT),
    "csv_http": stream("csv_http", "format: csv", CONSTANT),
    "parquet": stream("parquet", "", CONSTANT),
    "avro": stream("avro", "format: avro", CONSTANT),
    "declared": stream("declared", "format: avro\nschema: order.avsc", CONSTANT),
    "registered": stream("registered", "format: confluent", CONSTANT),
    "proto": stream("proto", "format: confluent", CONSTANT, amount="money.amount"),
    "json_schema": stream("json_schema", "format: confluent", CONSTANT),
    "cloud": stream("cloud", "convention: cloudevents", "", "data."),
    "cloud_kafka": stream("cloud_kafka", "convention: cloudevents", "", "data."),
    "debezium": stream("debezium", "convention: debezium", "", "after.", "orders"),
    "debezium_avro": stream("debezium_avro", "format: confluent\nconvention: debezium", "", "after.", "orders"),
    "outbox": stream("outbox", "convention: outbox", "", "", "OrderPlaced"),
}
EVENTS = {"debezium": "orders", "debezium_avro": "orders", "outbox": "OrderPlaced"}
TOPICS = ["declared", "registered", "proto", "json_schema", "cloud_kafka", "debezium", "debezium_avro", "outbox", "members"]
MEMBERS = """stream: members
domain: d
envelope: { constant_type: member, time: $timestamp, tombstone: member.gone, subject: $key.id }
events:
  member: { versions: { 1: { fields: { id: { path: $key.id, type: string }, name: { type: string }, trace: { path: $headers.trace, type: string } } } } }
  member.gone: { versions: { 1: { fields: { id: { path: $key.id, type: string } } } } }
"""
CUSTOMERS = """stream: customers
domain: d
convention: debezium
envelope: {}
events:
  customers: { versions: { 1: { fields: { id: { path: after.id, type: bigint }, city: { path: after.city, type: string } } } } }
  customers.deleted: { versions: { 1: { fields: { id: { path: before.id, type: bigint } } } } }
"""
DIMENSIONS = {
    "member": """dimension: member
key: id
from: [{ stream: members, event: member, as: state }, { stream: members, event: member.gone, as: delete }]
attributes: { name: { type: string, history: version }, trace: { type: string, history: version } }
""",
    "customer": """dimension: customer
key: id
from: [{ stream: customers, event: customers, as: state }, { stream: customers, event: customers.deleted, as: delete }]
attributes: { city: { type: string, history: version } }
""",
}


def fact(name: str) -> str:
    return f"""fact: {name}_orders
from: {{ stream: {name}, event: {EVENTS.get(name, "order")} }}
grain: [order_id]
degenerate: {{ order_id: {{}}, note: {{}}, placed_at: {{}} }}
measures:
  quantity: {{ type: bigint, additive: full }}
  amount: {{ type: "decimal(18,2)", additive: full }}
"""


def product() -> str:
    ports = [f"  {name}:\n    model: {name}_orders\n    columns:\n      order_id: {{ type: string }}\n      note: {{ type: string }}\n"
             "      placed_at: { type: timestamp }\n      quantity: { type: bigint }\n      amount: { type: 'decimal(18,2)' }\n"
             for name in STREAMS]
    for name, key, more in [("member", "string", ["name", "trace"]), ("customer", "bigint", ["city"])]:
        columns = "".join(f"      {column}: {{ type: string }}\n" for column in more)
        ports.append(f"  {name}:\n    model: {name}\n    columns:\n      id: {{ type: {key} }}\n{columns}"
                     "      valid_from: { type: timestamp }\n      is_deleted: { type: bool }\n")
    return "product: all\nversion: 1\nowner: a@example.com\nports:\n" + "".join(ports)


def write_project(starmere: str, project: Path, broker: str, registry: str) -> None:
    subprocess.run([starmere, "init", project], check=True, capture_output=True)
    for name, text in (STREAMS | {"members": MEMBERS, "customers": CUSTOMERS}).items():
        (project / "streams" / f"{name}.yaml").write_text(text, encoding="utf-8")
    models = project / "domains" / "d" / "models"
    models.mkdir(parents=True)
    for name in STREAMS:
        (models / f"{name}.yaml").write_text(fact(name), encoding="utf-8")
    for name, text in DIMENSIONS.items():
        (models / f"{name}.yaml").write_text(text, encoding="utf-8")
    (project / "domains" / "d" / "products").mkdir()
    (project / "domains" / "d" / "products" / "all.yaml").write_text(product(), encoding="utf-8")
    (project / "order.avsc").write_text(json.dumps(AVRO_ORDER), encoding="utf-8")
    sources = "sources:\n"
    for name in ["csv", "parquet", "avro", "customers"]:
        sources += f"  {name}: {{ stream: {name}, files: in/{name} }}\n"
        (project / "in" / name).mkdir(parents=True)
    for name in TOPICS:
        sources += (f"  {name}:\n    stream: {name}\n    kafka:\n      brokers: {broker}\n      topics: [{name}]\n"
                    f"      registry: {{ url: '{registry}' }}\n      settings: {{ session.timeout.ms: '10000' }}\n")
    text = (project / "starmere.yaml").read_text(encoding="utf-8")
    (project / "starmere.yaml").write_text(text.replace("sources: {}\n", sources), encoding="utf-8")


def csv_text(delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(FIELDS)
    writer.writerows([plain(row)[name] for name in FIELDS] for row in ORDERS)
    return text.getvalue()


def datum(schema: dict[str, Any], row: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, schema, row)
    return buffer.getvalue()


def confluent(number: int, content: bytes) -> bytes:
    return b"\0" + struct.pack(">I", number) + content


def proto_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    field = descriptor_pb2.FieldDescriptorProto
    money = descriptor_pb2.FileDescriptorProto(name="money.proto", package="shop", syntax="proto3")
    money.message_type.add(name="Money").field.add(name="amount", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    pool.Add(money)
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3",
                                              dependency=["money.proto", "google/protobuf/timestamp.proto"])
    file.message_type.add(name="Nothing")
    message = file.message_type.add(name="Order")
    message.oneof_decl.add(name="_note")
    for number, (name, kind, of) in enumerate([
            ("order_id", field.TYPE_STRING, None), ("note", field.TYPE_STRING, None), ("quantity", field.TYPE_INT64, None),
            ("money", field.TYPE_MESSAGE, ".shop.Money"), ("placed_at", field.TYPE_MESSAGE, ".google.protobuf.Timestamp")], 1):
        added = message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL, type_name=of)
        if name == "note":
            added.oneof_index, added.proto3_optional = 0, True
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


def proto(of: Any, row: dict[str, Any]) -> bytes:
    message = of(order_id=row["order_id"], quantity=row["quantity"])
    if row["note"] is not None:
        message.note = row["note"]
    message.money.amount = str(row["amount"])
    message.placed_at.FromDatetime(row["placed_at"])
    # The second message of its file.
    return b"\x02\x02" + message.SerializeToString()


def change(op: str, before: Any, after: Any, lsn: int, at: datetime.datetime, table: str = "orders") -> dict[str, Any]:
    millis = int(at.timestamp() * 1000)
    source = {"version": "3.0", "connector": "postgresql", "name": "shop", "ts_ms": millis, "snapshot": "false", "db": "shop",
              "schema": "public", "table": table, "txId": lsn // 3, "lsn": lsn}
    return {"before": before, "after": after, "source": source, "op": op, "ts_ms": millis + 500, "transaction": None}


AVRO_CHANGE = {
    "type": "record", "name": "Envelope", "namespace": "shop.orders", "fields": [
        {"name": "before", "type": ["null", AVRO_ORDER | {"name": "Value", "namespace": "shop.orders"}]},
        {"name": "after", "type": ["null", "shop.orders.Value"]},
        {"name": "source", "type": {"type": "record", "name": "Source", "fields": [
            {"name": "connector", "type": "string"}, {"name": "name", "type": "string"}, {"name": "ts_ms", "type": "long"},
            {"name": "table", "type": "string"}, {"name": "lsn", "type": ["null", "long"]}]}},
        {"name": "op", "type": "string"}, {"name": "ts_ms", "type": ["null", "long"]}]}
SCHEMAS = {
    1: {"schema": json.dumps(AVRO_ORDER)},
    2: {"schema": json.dumps(AVRO_ORDER_2), "schemaType": "AVRO"},
    3: {"schema": ORDER_PROTO, "schemaType": "PROTOBUF", "references": [{"name": "money.proto", "subject": "money", "version": 4}]},
    4: {"schema": '{"type": "object"}', "schemaType": "JSON"},
    5: {"schema": json.dumps(AVRO_CHANGE)},
}
SUBJECTS = {("money", 4): {"schema": MONEY_PROTO, "schemaType": "PROTOBUF", "id": 9}}


def write_files(project: Path) -> None:
    (project / "in/csv/a.csv").write_text(csv_text(";"), encoding="utf-8", newline="")
    table = pyarrow.Table.from_pylist(ORDERS, pyarrow.schema([
        ("order_id", pyarrow.string()), ("note", pyarrow.string()), ("quantity", pyarrow.int64()),
        ("amount", pyarrow.decimal128(18, 2)), ("placed_at", pyarrow.timestamp("us", "UTC"))]))
    pyarrow.parquet.write_table(table, project / "in/parquet/a.parquet", row_group_size=100)
    for part, codec in enumerate(["null", "deflate", "snappy", "zstandard"]):
        with open(project / f"in/avro/{part}.avro", "wb") as file:
            fastavro.writer(file, AVRO_ORDER, ORDERS[part::4], codec=codec, sync_interval=1000)
    hour = datetime.timedelta(hours=1)
    changes = [
        change("r", None, {"id": 1, "city": "Bern"}, 10, BEGIN, "customers"),
        change("c", None, {"id": 2, "city": "Basel"}, 11, BEGIN, "customers"),
        change("u", {"id": 1, "city": "Bern"}, {"id": 1, "city": "Chur"}, 12, BEGIN + hour, "customers"),
        change("d", {"id": 2, "city": "Basel"}, None, 13, BEGIN + 2 * hour, "customers"),
    ]
    # Told twice, as a connector does that was restarted.
    lines = [json.dumps(event | {"ts_ms": again}) + "\n" for again in (1, 2) for event in changes]
    (project / "in/customers/a.jsonl").write_text("".join(lines), encoding="utf-8")


def produce(broker: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker, "log_level": 0})
    for made in admin.create_topics([NewTopic(topic, 1, 1) for topic in TOPICS]).values():
        made.result(30)
    producer = Producer({"bootstrap.servers": broker, "log_level": 0})
    of = proto_class()
    key_schema = {"type": "struct"}
    for number, row in enumerate(ORDERS):
        text = json.dumps(plain(row))
        producer.produce("declared", datum(AVRO_ORDER, row))
        if number % 2:
            producer.produce("registered", confluent(2, datum(AVRO_ORDER_2, row | {"channel": "app"})))
        else:
            producer.produce("registered", confluent(1, datum(AVRO_ORDER, row)))
        producer.produce("proto", confluent(3, proto(of, row)))
        producer.produce("json_schema", confluent(4, text.encode()))
        event = cloud_event(row)
        message = (to_kafka_binary if number % 2 else to_kafka_structured)(event, data_marshaller=lambda data: json.dumps(data).encode())
        producer.produce("cloud_kafka", message.value, headers=list(message.headers.items()))
        value = change("c", None, plain(row), number, row["placed_at"])
        if number % 2:
            value = {"schema": key_schema, "payload": value}
        producer.produce("debezium", json.dumps(value), key=json.dumps({"schema": key_schema, "payload": {"order_id": row["order_id"]}}))
        producer.produce("debezium", None, key="{}")
        avro = change("c", None, row, number, row["placed_at"])
        producer.produce("debezium_avro", confluent(5, datum(AVRO_CHANGE, avro)))
        wrapped = text if number % 2 else json.dumps({"schema": {"type": "string"}, "payload": text})
        headers = [("id", row["order_id"].encode()), ("eventType", b"OrderPlaced")]
        producer.produce("outbox", wrapped, key=row["order_id"], headers=headers)
        producer.poll(0)
    producer.produce("registered", confluent(99, b"no such schema"))
    for name, after in [("ann", 0), ("anna", 1), (None, 2)]:
        value = name and json.dumps({"name": name})
        millis = int(BEGIN.timestamp() * 1000) + after * 3_600_000
        producer.produce("members", value, key='{"id": "m1"}', headers=[("trace", str(after).encode())], timestamp=millis)
    if producer.flush(30):
        raise AssertionError("not everything was produced")


def cloud_event(row: dict[str, Any]) -> CloudEvent:
    return CloudEvent({"id": row["order_id"], "source": "/shop", "type": "order", "time": row["placed_at"].isoformat(), "datacontenttype": "application/json"}, plain(row))


def post(url: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def post_all(http: str) -> None:
    url = f"{http}/v1/streams"
    third = COUNT // 3
    for row in ORDERS[:third]:
        headers, body = to_binary(cloud_event(row))
        post(f"{url}/cloud/events", dict(headers), body)
    for row in ORDERS[third:2 * third]:
        headers, body = to_structured(cloud_event(row))
        post(f"{url}/cloud/events", dict(headers), body)
    batch = [json.loads(to_structured(cloud_event(row))[1]) for row in ORDERS[2 * third:]]
    answer = post(f"{url}/cloud/events", {"content-type": "application/cloudevents-batch+json"}, json.dumps(batch).encode())
    assert answer["accepted"] == len(batch) and answer["delivery"] == "exactly once", answer
    answer = post(f"{url}/csv_http/events", {"content-type": "text/csv"}, csv_text(",").encode())
    assert (answer["accepted"], answer["rejected"]) == (COUNT, 0), answer


def rows(flight: str, sql: str) -> list[tuple[Any, ...]]:
    table = ask(flight, sql)
    return list(zip(*(table.column(index).to_pylist() for index in range(table.num_columns))))


def has_metrics(http: str) -> None:
    with urllib.request.urlopen(f"{http}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    for line in [f'starmere_stream_rows{{stream="csv"}} {COUNT}', 'starmere_stream_rejects{stream="csv"} 0',
                 f'starmere_source_position{{stream="declared",source="declared",topic="declared",partition="0"}} {COUNT}',
                 "starmere_ingest_memory_bytes 536870912", "starmere_ingest_waiting 0"]:
        assert line in lines, f"no `{line}` among {[other for other in lines if other.startswith(line.split('{')[0].split()[0])]}"


    for begin in ['starmere_source_last_landed_timestamp_seconds{stream="csv"', 'starmere_source_failing{stream="declared"']:
        assert any(line.startswith(begin) for line in lines), f"no `{begin}`"


def ingests_with_metrics(starmere: str, project: Path) -> None:
    """Follows the sources, of which the broker's is gone by now; tells metrics; ends when it is told to."""
    command = [starmere, "ingest", "--metrics", "127.0.0.1:0", "--project", str(project)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        http = next(word for line in process.stderr for word in line.split() if word.startswith("http://"))
        has_metrics(http)
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0, f"it ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()


def main() -> int:
    starmere, project = sys.argv[1], Path(sys.argv[2])
    passed = failed = 0

    def check(name: str, act: Callable[[], None]) -> None:
        nonlocal passed, failed
        began = time.perf_counter()
        try:
            act()
        except Exception as error:  # a check fails by raising whatever
            failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)
        else:
            passed += 1
            print(f"ok    {name}  ({time.perf_counter() - began:.1f} s)", flush=True)

    def does(*words: str) -> None:
        done = subprocess.run([starmere, *words, "--project", str(project)], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise AssertionError(f"`{' '.join(words)}` ended with {done.returncode}: {done.stderr}")

    def same(found: Any, expected: Any) -> None:
        if found != expected:
            wrong = [pair for pair in zip(found, expected) if pair[0] != pair[1]][:3] if isinstance(found, list) else ""
            raise AssertionError(f"{len(found)} rows, not {len(expected)}; {wrong or found}")

    with kafka_broker() as broker:
        with schema_registry(SCHEMAS, SUBJECTS) as registry:
            write_project(starmere, project, broker, registry)
            check("definitions are right", lambda: does("check"))
            write_files(project)
            produce(broker)
            check("everything lands", lambda: does("ingest", "--once"))
        check("nothing lands again, without the registry", lambda: does("ingest", "--once"))
    with Server(Path(starmere), project) as server:
        check("posted", lambda: post_all(server.http))
    check("built, without the registry", lambda: does("build"))
    with Server(Path(starmere), project) as server:
        columns = ", ".join(FIELDS)
        for name in STREAMS:
            sql = f"SELECT {columns} FROM d.all_v1.{name} ORDER BY order_id"
            check(f"orders from {name}", lambda: same(rows(server.flight, sql), EXPECTED))
        rejected = "SELECT count(*) FROM lake.d.{} WHERE rejection IS NOT NULL"
        for name in [*STREAMS, "members", "customers"]:
            expected = [(1,)] if name == "registered" else [(0,)]
            check(f"rejects of {name}", lambda: same(rows(server.flight, rejected.format(name)), expected))
        check("metrics", lambda: has_metrics(server.http))
        versions = "SELECT id, {}, valid_from, is_deleted FROM d.all_v1.{} WHERE id IS NOT NULL ORDER BY id, valid_from"
        check("versions from tombstones", lambda: same(
            [row[:3] + row[4:] for row in rows(server.flight, versions.format("name, trace", "member"))],
            [("m1", "ann", "0", False), ("m1", "anna", "1", False), ("m1", "anna", "1", True)]))
        check("versions from changes", lambda: same(
            [row[:2] + row[3:] for row in rows(server.flight, versions.format("city", "customer"))],
            [(1, "Bern", False), (1, "Chur", False), (2, "Basel", False), (2, "Basel", True)]))
    check("ingest with metrics", lambda: ingests_with_metrics(starmere, project))
    check("verified", lambda: does("verify"))
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

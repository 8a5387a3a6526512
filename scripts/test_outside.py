#!/usr/bin/env python3
"""Tests from outside: the binary as a user runs it, asked by clients and engines that are not ours.

    python scripts/test_outside.py target/debug/starmere [--orders 2000] [--queries 300] [--flights N] [--keep DIR]

    itself    a group, or a program with checks, that ran too little fails
    shop      definitions, landing, building and doing it all again; the star against the answers of the
              generator and of DuckDB; events over HTTP, twice; random queries, answered by DuckDB as well;
              the driver's conformance, with and without users; what README.md shows; the warehouse read by delta-rs,
              polars, ClickHouse and DuckDB; `verify`
    engines   a model of every kind, and files with columns replaced, read by the same engines
    s3        a real server of S3's protocol: the store's conformance, with writers that race; a small shop, landed, built, done
              again, verified; by two processes, behind a proxy that refuses, loses answers and is slow; and with the
              server killed under `up`
    kafka     topics of a real broker: drained; followed by two processes, of which one is killed; deleted; made again
    formats   the same orders in every format, as files, over Kafka and HTTP
    pages     keys, definitions and commands of docs, as the binary has them
    many      100,000 files of one event each, landed, then looked at again
    flights   a year of real flights against the data frames they came from
    figures   published figures are those that were measured, and the benchmarks treat both sides alike
    abuse     five minutes of malice beside 1,000 events a second and a client that asks every 100 ms

Servers listen on ports that the system chooses and are stopped by their own process ids. The last line says how
many checks passed and failed; exit 1 if any failed.
"""

import argparse
import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
from broker import kafka_broker  # noqa: E402
from bucket import BUCKET, FAULTS, Bucket, Failing  # noqa: E402
from demo import PORTS, ROOT, Failed, Server, ask, counted_rows, differences, expected_rows, flight_sql, post_events

COMMAND_SECONDS = 900.0
PATIENCE_SECONDS = 120.0
MANY_FILES = 100_000
ONE_STREAM = """
stream: s
domain: d
envelope: { id: id, constant_type: seen, time: at }
events: { seen: { versions: { 1: { fields: { at: { type: timestamp } } } } } }
"""
PYTHON_TESTS = ROOT / "tests" / "python"
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed$", re.M)

# Versions of customers, written as the file of `expected/` has them.
CUSTOMER_VERSIONS = """
SELECT customer_id, name, city, segment, first_channel, signed_up_on, valid_from, valid_to, is_deleted, is_inferred
FROM customers.customers_v1.customer WHERE customer_key <> 0"""


class Tests:
    """Counts checks, and says of each whether it holds."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def says(self, name: str, seconds: float, wrong: str | None) -> bool:
        self.passed += wrong is None
        self.failed += wrong is not None
        print(f"{'ok  ' if wrong is None else 'FAIL'}  {name}  ({seconds:.1f} s)", flush=True)
        if wrong is not None:
            print("\n".join(f"      {line}" for line in wrong.splitlines()[-40:]), flush=True)
        return wrong is None

    def check(self, name: str, act: Callable[[], object]) -> bool:
        """One check: it fails by raising `Failed`, or an error of the driver's."""
        began, wrong = time.perf_counter(), None
        try:
            act()
        except (Failed, flight_sql.Error, OSError) as error:
            wrong = str(error)
        return self.says(name, time.perf_counter() - began, wrong)

    @property
    def ran(self) -> int:
        return self.passed + self.failed

    def suite(self, name: str, least: int, *command: object, **environment: str) -> None:
        """A program with checks of its own, `least` of them or more, which ends with `N passed, N failed`."""
        began = time.perf_counter()
        print(f"--    {name}", flush=True)
        status, output = finish(*command, **environment)
        print("\n".join(f"      {line}" for line in output.splitlines()), flush=True)
        counts = COUNTS.findall(output)
        if not counts or (status != 0) != (int(counts[-1][1]) > 0):
            self.says(name, time.perf_counter() - began, f"ended with status {status} and no count that fits it")
            return
        passed, failed = map(int, counts[-1])
        self.passed, self.failed = self.passed + passed, self.failed + failed
        self.at_least(name, least, passed + failed)

    def at_least(self, name: str, least: int, ran: int) -> None:
        """Fails where fewer checks ran than there are."""
        if ran < least:
            self.says(name, 0.0, f"{ran} checks ran; at least {least} must")

    def group(self, name: str, least: int, act: Callable[[], None]) -> None:
        """Checks that belong together, `least` of them or more."""
        before = self.ran
        try:
            act()
        except (Failed, OSError) as error:
            self.says(f"{name}: to the end", 0.0, str(error))
        self.at_least(f"{name}: all of it", least, self.ran - before)


def finish(*command: object, **environment: str) -> tuple[int, str]:
    """Runs a command to its end: status, and what it said on both outputs."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", timeout=COMMAND_SECONDS, env=os.environ | environment)
    except subprocess.TimeoutExpired:
        raise Failed(f"`{' '.join(words)}` has not ended after {COMMAND_SECONDS:.0f} s") from None
    return done.returncode, done.stdout


def must(*command: object, **environment: str) -> str:
    """Runs a command that must succeed; what it said."""
    status, output = finish(*command, **environment)
    if status != 0:
        raise Failed(f"`{' '.join(map(str, command))}` ended with status {status}:\n{output}")
    return output


def same(found: object, expected: object) -> None:
    if found != expected:
        raise Failed(f"found {found}\nexpected {expected}")


def itself(tests: Tests) -> None:
    """What proves nothing fails: a suite, or a group, that ran too little."""
    def judged(act: Callable[[Tests], None]) -> tuple[int, int]:
        judge = Tests()
        with contextlib.redirect_stdout(io.StringIO()):
            act(judge)
        return judge.passed, judge.failed

    def says(words: str) -> Callable[[Tests], None]:
        return lambda judge: judge.suite("words", 1, sys.executable, "-c", f"print({words!r})")

    def right() -> None:
        same(judged(says("1 passed, 0 failed")), (1, 0))
        same(judged(says("0 passed, 0 failed")), (0, 1))
        same(judged(says("1 passed, 1 failed")), (0, 1))
        same(judged(says("")), (0, 1))
        same(judged(lambda judge: judge.group("nothing", 1, lambda: None)), (0, 1))

    tests.check("itself: what ran nothing fails", right)


def answers(endpoint: str, sql: str, path: Path) -> None:
    wrong = differences(ask(endpoint, sql), path)
    if wrong:
        raise Failed(f"{len(wrong)} differences from {path.name}\n" + "\n".join(wrong[:10]))


def queries_of(readme: Path) -> Iterator[tuple[str, str]]:
    """The SQL of the example's README, each with the file of `expected/` that it says it gives."""
    text = readme.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sql\n(.*?)^```$", text, re.M | re.S)
    files = re.findall(r"`expected/(\w+\.csv)`", text)
    if not blocks or len(blocks) != len(files):
        raise Failed(f"{readme} has {len(blocks)} queries and names {len(files)} answers")
    return zip(files, blocks)


@contextlib.contextmanager
def serving(tests: Tests, starmere: Path, project: Path) -> Iterator[Server | None]:
    """A server, or `None` where it could not be started; and a check that it ended in order."""
    server = Server(starmere, project)
    if not tests.check(f"{project.name}: the server starts", server.__enter__):
        yield None
        return
    try:
        yield server
    finally:
        status = server.stop()
        tests.says(f"{project.name}: the server ends in order", 0.0,
                   f"ended with status {status}:\n{server.words()}" if status else None)


def shop(tests: Tests, starmere: Path, project: Path, orders: int, queries: int) -> None:
    def starmere_does(*words: object) -> Callable[[], str]:
        return lambda: must(starmere, *words, "--project", project)

    expected, readme = project / "expected", project / "README.md"
    begins = [
        ("shop: written", lambda: must(starmere, "init", project, "--example", "shop", "--size", orders)),
        ("shop: the answers are DuckDB's as well", lambda: must(sys.executable, ROOT / "tests" / "oracle" / "shop.py", project)),
        ("shop: definitions are right", starmere_does("check")),
        ("shop: files land", starmere_does("ingest", "--once")),
        ("shop: builds", starmere_does("build")),
    ]
    if not all(tests.check(name, act) for name, act in begins):
        return
    with serving(tests, starmere, project) as server:
        if server is None:
            return
        tests.check("shop: tables have the rows they should", lambda: same(counted_rows(server.flight), expected_rows(expected)))
        for file, sql in queries_of(readme):
            tests.check(f"shop: {file}", lambda: answers(server.flight, sql, expected / file))
        tests.check("shop: customer_versions.csv",
                    lambda: answers(server.flight, CUSTOMER_VERSIONS, expected / "customer_versions.csv"))

        def all_again() -> None:
            must(starmere, "ingest", "--once", "--project", project)
            must(starmere, "build", "--project", project)
            same(counted_rows(server.flight), expected_rows(expected))

        tests.check("shop: landed and built again, nothing changes", all_again)
        after = expected / "with_http"

        def posted() -> None:
            post_events(server.http, "orders", project / "events-http" / "orders.jsonl")
            must(starmere, "build", "--project", project)
            same(counted_rows(server.flight), expected_rows(after))

        tests.check("shop: orders over HTTP count", posted)
        tests.check("shop: posted again, they count once", posted)
        for file, sql in queries_of(readme):
            tests.check(f"shop: {file}, with posted orders", lambda: answers(server.flight, sql, after / file))
        tests.suite("random queries, as DuckDB answers them", queries * 3 // 4, sys.executable, PYTHON_TESTS / "random_queries.py",
                    server.flight, *PORTS.values(), "--seeds", queries)
        tests.suite("conformance of Flight SQL", 28, sys.executable, PYTHON_TESTS / "conformance.py", server.flight,
                    server.http)
        tests.suite("what README.md shows", 7, sys.executable, PYTHON_TESTS / "readme.py",
                    STARMERE_ENDPOINT=server.flight, STARMERE_PROJECT=str(project), STARMERE_BINARY=str(starmere))
    users_only(tests, starmere, project)
    tests.check("shop: verified", starmere_does("verify"))

    def rebuilt() -> None:
        must(starmere, "build", "--full", "--project", project)
        with Server(starmere, project) as server:
            same(counted_rows(server.flight), expected_rows(after))

    tests.check("shop: a full build has the same rows", rebuilt)
    tests.suite("other engines", 60, sys.executable, PYTHON_TESTS / "outsiders.py", project / "warehouse")


def users_only(tests: Tests, starmere: Path, project: Path) -> None:
    """The project as it is, but for those who have a password."""
    settings, password = project / "starmere.yaml", "horse battery staple"
    open_to_all = settings.read_text(encoding="utf-8")
    (project / "ana.secret").write_text(password, encoding="utf-8")
    settings.write_text(f'{open_to_all}users:\n  ana: {{ password: "${{file:ana.secret}}" }}\n', encoding="utf-8")
    with serving(tests, starmere, project) as server:
        if server is not None:
            tests.suite("conformance of Flight SQL, with a user", 28, sys.executable, PYTHON_TESTS / "conformance.py",
                        server.flight, server.http, "--user", "ana", "--password", password)
    settings.write_text(open_to_all, encoding="utf-8")


def s3(tests: Tests, starmere: Path, project: Path) -> None:
    def speaks_to(url: str) -> dict[str, str]:
        return {"AWS_ENDPOINT": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}

    def begin(folder: Path, prefix: str) -> None:
        must(starmere, "init", folder, "--example", "shop", "--size", 300)
        settings = folder / "starmere.yaml"
        text = re.sub("^warehouse:.*$", f"warehouse: s3://{BUCKET}/{prefix}", settings.read_text(encoding="utf-8"), flags=re.M)
        settings.write_text(text, encoding="utf-8")

    def is_whole(folder: Path, answers: Path, url: str) -> None:
        found = must(starmere, "--format", "csv", "--quiet", "sql", "SELECT count(*) AS n FROM sales.orders_v1.order_lines",
                     "--project", folder, **speaks_to(url))
        same(found.split(), ["n", str(expected_rows(answers)["sales.order_lines"])])

    def all_of_it(folder: Path, url: str) -> None:
        for words in [("ingest", "--once"), ("build",)] * 2:
            must(starmere, *words, "--project", folder, **speaks_to(url))
        is_whole(folder, folder / "expected", url)

    def conforms(test: str, prefix: str, url: str) -> None:
        """Tests of the store that only run where there is one."""
        said = must(os.environ.get("CARGO", "cargo"), "test", "--workspace", "--lib", "--manifest-path", ROOT / "Cargo.toml",
                    test, "--", "--ignored", STARMERE_STORE=f"s3://{BUCKET}/{prefix}", **speaks_to(url))
        same(sum(map(int, re.findall(r"^test result: ok. (\d+) passed", said, re.M))), 1)

    def at_last(folder: Path, url: str, *words: str) -> None:
        """A command may give up while the store fails; it is safe to repeat."""
        for _ in range(10):
            status, said = finish(starmere, *words, "--project", folder, **speaks_to(url))
            if status == 0:
                return
        raise Failed(f"`{' '.join(words)}` ended with status {status}:\n{said}")

    def two_processes(folder: Path, proxy: Failing) -> None:
        begin(folder, "failing")
        with ThreadPoolExecutor(2) as pool:
            for words in [("ingest", "--once"), ("build",), ("ingest", "--once")]:
                for done in [pool.submit(at_last, folder, proxy.url, *words) for _ in range(2)]:
                    done.result()
        same([fault for fault in FAULTS if not proxy.met[fault]], [])

    def killed(folder: Path, bucket: Bucket) -> None:
        """`up` lands, builds and answers, while the server of the store dies, stays away, and comes back."""
        begin(folder, "killed")
        here, later = folder / "events" / "orders", folder / "orders"
        shutil.move(here, later)
        here.mkdir()
        with Server(starmere, folder, "up", **speaks_to(bucket.url)) as running:
            for file in sorted(later.iterdir()):
                bucket.kill()  # while what came before is landed and built
                shutil.move(file, here)
                bucket.start()
            until = time.monotonic() + PATIENCE_SECONDS
            while True:
                try:
                    is_whole(folder, folder / "expected", bucket.url)
                    break
                except Failed:
                    if time.monotonic() > until or running.process.poll() is not None:
                        raise
            same(running.stop(), 0)

    def verified(folder: Path, url: str) -> None:
        must(starmere, "verify", "--project", folder, **speaks_to(url))

    with Bucket(project / "server") as bucket:
        plain, failing, dying = project / "plain", project / "failing", project / "dying"
        tests.check("s3: a real store conforms", lambda: conforms("a_store_over_the_network", "conforms", bucket.url))
        if tests.check("s3: written", lambda: begin(plain, "a/prefix")):
            tests.check("s3: landed, built, and all again", lambda: all_of_it(plain, bucket.url))
            tests.check("s3: verified", lambda: verified(plain, bucket.url))
        with Failing(bucket.port, seed=1) as proxy:
            tests.check("s3: writers race over a store that fails",
                        lambda: conforms("writers_that_race_over_the_network", "races", proxy.url))
            tests.check("s3: two processes land and build over a store that fails", lambda: two_processes(failing, proxy))
        tests.check("s3: nothing is lost or doubled there", lambda: is_whole(failing, failing / "expected", bucket.url))
        tests.check("s3: that is verified", lambda: verified(failing, bucket.url))
        tests.check("s3: the store is killed under a process", lambda: killed(dying, bucket))
        tests.check("s3: that is verified, too", lambda: verified(dying, bucket.url))


def kafka(tests: Tests, starmere: Path, project: Path) -> None:
    from confluent_kafka import KafkaException, Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    partitions, members = 3, []

    def starmere_does(*words: str) -> str:
        return must(starmere, *words, "--project", project)

    def produce(producer: Producer, first: int, end: int) -> None:
        for number in range(first, end):
            event = f'{{"id":{number},"at":"2024-01-01T00:00:00Z"}}'
            producer.produce("orders", event, key=str(number), partition=number % partitions)
        same(producer.flush(30), 0)

    def has_once(count: int, folder: Path = project) -> None:
        sql = "SELECT count(*), count(DISTINCT event_id), count(key) FROM lake.d.s WHERE rejection IS NULL"
        found = ""
        for _ in range(300):
            found = must(starmere, "--format", "csv", "sql", sql, "--project", folder).split()[-1]
            if found == f"{count},{count},{count}":
                return
            time.sleep(0.2)
        raise Failed(f"{count} events were produced; rows, ids, keys: {found}")

    def make(folder: Path, address: str, topics: str) -> None:
        must(starmere, "init", folder)
        (folder / "streams" / "s.yaml").write_text(ONE_STREAM, encoding="utf-8")
        text = (folder / "starmere.yaml").read_text(encoding="utf-8")
        source = f"sources:\n  k:\n    stream: s\n    kafka:\n      brokers: {address}\n      topics: [{topics}]\n"
        (folder / "starmere.yaml").write_text(text.replace("sources: {}\n", source), encoding="utf-8")

    def begin(address: str) -> Producer:
        settings = {"bootstrap.servers": address, "log_level": 0}
        admin = AdminClient(settings)
        try:
            admin.create_topics([NewTopic("orders", partitions, 1)])["orders"].result(30)
        except KafkaException as error:
            raise Failed(f"the broker made no topic: {error}") from None
        make(project, address, "orders")
        return Producer(settings)

    def drained(producer: Producer) -> None:
        produce(producer, 0, 3000)
        starmere_does("ingest", "--once")
        starmere_does("ingest", "--once")
        has_once(3000)

    def followed(producer: Producer) -> None:
        for _ in range(2):
            members.append(subprocess.Popen([starmere, "ingest", "--project", project, "--quiet"]))
        for first in range(3000, 6000, 500):
            produce(producer, first, first + 500)
            time.sleep(0.5)
        members[0].kill()
        produce(producer, 6000, 6500)
        has_once(6500)
        members[1].terminate()
        same(members[1].wait(30), 0)

    def deleted(address: str) -> None:
        """A topic that goes while it is followed ends nobody, and what comes by the other one lands."""
        folder = project / "deleted"
        admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        for made in admin.create_topics([NewTopic("stays", 1, 1), NewTopic("goes", 2, 1)]).values():
            made.result(30)
        make(folder, address, "stays, goes")
        producer = Producer({"bootstrap.servers": address, "log_level": 0, "batch.num.messages": 1})

        def produce_to(topic: str, first: int, end: int) -> None:
            for number in range(first, end):
                producer.produce(topic, f'{{"id":{number},"at":"2024-01-01T00:00:00Z"}}', key="k", partition=0)
            same(producer.flush(30), 0)

        produce_to("stays", 0, 100)
        produce_to("goes", 100, 200)
        member = subprocess.Popen([starmere, "ingest", "--project", folder, "--quiet"])
        members.append(member)
        has_once(200, folder)
        for gone in admin.delete_topics(["goes"]).values():
            gone.result(30)
        for first in range(200, 400, 20):
            produce_to("stays", first, first + 20)
            has_once(first + 20, folder)
            time.sleep(1)
        same(member.poll(), None)
        member.terminate()
        same(member.wait(30), 0)

    def made_again(address: str, topic: str, pause: float) -> None:
        """A topic that is made again under a process that follows it stops; nothing of it is passed by."""
        folder = project / topic
        settings = {"bootstrap.servers": address, "log_level": 0}
        admin = AdminClient(settings)

        def make_topic() -> None:
            admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)

        def produce_to(first: int, end: int) -> None:
            producer = Producer(settings)
            for number in range(first, end):
                producer.produce(topic, f'{{"id":{number},"at":"2024-01-01T00:00:00Z"}}', key="k", partition=0)
            same(producer.flush(30), 0)

        make_topic()
        make(folder, address, topic)
        produce_to(0, 300)
        member = subprocess.Popen([starmere, "ingest", "--project", folder, "--quiet"])
        members.append(member)
        has_once(300, folder)
        time.sleep(1)
        admin.delete_topics([topic])[topic].result(30)
        time.sleep(pause)
        make_topic()
        produce_to(1000, 1700)
        stopped = f"partition 0 of `{topic}`"
        for _ in range(300):
            if stopped in must(starmere, "status", "--sources", "--project", folder):
                break
            time.sleep(0.2)
        else:
            raise Failed("the partition does not stop")
        has_once(300, folder)
        must(starmere, "ingest", "--go-on", f"k/{topic}/0", "--project", folder)
        has_once(1000, folder)
        member.terminate()
        same(member.wait(30), 0)

    with kafka_broker() as address:
        try:
            producer = begin(address)
            if tests.check("kafka: drained, twice", lambda: drained(producer)):
                tests.check("kafka: two members follow, one is killed", lambda: followed(producer))
                tests.check("kafka: positions are known", lambda: same(
                    [row.split(",")[:6] for row in starmere_does("--format", "csv", "status", "--sources").split("\n")
                     if row.startswith("s,k,")], [["s", "k", "orders", str(number), "", str(end)]
                                                  for number, end in enumerate([2167, 2167, 2166])]))
                tests.check("kafka: small files are put together", lambda: (starmere_does("upkeep"), has_once(6500)))
                tests.check("kafka: verified", lambda: starmere_does("verify", "--lake-only"))
                tests.check("kafka: a topic is deleted while it is followed", lambda: deleted(address))
                for topic, pause in [("again", 0.0), ("later", 1.0)]:
                    tests.check(f"kafka: a topic is made again within {pause:.0f} s while it is followed",
                                lambda topic=topic, pause=pause: made_again(address, topic, pause))
        finally:
            for member in members:
                member.kill()
                member.wait()


def many(tests: Tests, starmere: Path, project: Path) -> None:
    count = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM lake.d.s WHERE rejection IS NULL"

    def write() -> None:
        must(starmere, "init", project)
        (project / "streams" / "s.yaml").write_text(ONE_STREAM, encoding="utf-8")
        text = (project / "starmere.yaml").read_text(encoding="utf-8")
        source = "sources: { s: { stream: s, files: events } }"
        (project / "starmere.yaml").write_text(text.replace("sources: {}", source), encoding="utf-8")
        for number in range(MANY_FILES):
            if number % 1000 == 0:
                folder = project / "events" / str(number // 1000)
                folder.mkdir(parents=True)
            (folder / f"{number}.json").write_text(f'{{"id":{number},"at":"2024-01-01T00:00:00Z"}}\n', encoding="ascii")

    def land() -> None:
        must(starmere, "ingest", "--once", "--project", project)
        same(must(starmere, "--format", "csv", "sql", count, "--project", project).split()[-1],
             f"{MANY_FILES},{MANY_FILES}")

    tests.check("many: files written", write)
    tests.check("many: files land", land)
    tests.check("many: files are known again", land)


def flights(tests: Tests, starmere: Path, project: Path, limit: int | None) -> None:
    events = ["events", *(["--limit", limit] if limit else [])]
    example = ROOT / "examples" / "flights"

    def write() -> None:
        shutil.copytree(example, project, ignore=shutil.ignore_patterns("events", "warehouse", "__pycache__"))
        must(sys.executable, example / "make_events.py", project / events[0], *events[1:])

    begins = [
        ("flights: written", write),
        ("flights: definitions are right", lambda: must(starmere, "check", "--project", project)),
        ("flights: files land", lambda: must(starmere, "ingest", "--once", "--project", project)),
        ("flights: builds", lambda: must(starmere, "build", "--project", project)),
    ]
    if not all(tests.check(name, act) for name, act in begins):
        return
    with serving(tests, starmere, project) as server:
        if server is not None:
            tests.suite("flights against their data frames", 13, sys.executable, PYTHON_TESTS / "flights_oracle.py",
                        project, server.flight)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("starmere", type=Path, help="the binary, such as target/debug/starmere")
    arguments.add_argument("--orders", type=int, default=2000, help="size of the shop (default: 2000)")
    arguments.add_argument("--queries", type=int, default=300, help="random queries (default: 300)")
    arguments.add_argument("--flights", type=int, metavar="N", help="only the first N flights (default: all)")
    arguments.add_argument("--abuse", type=float, default=300, help="seconds of abuse (default: 300)")
    arguments.add_argument("--keep", type=Path, metavar="DIR", help="work in this new folder, and leave it there")
    options = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then, too

    starmere, tests = options.starmere.resolve(), Tests()
    with contextlib.ExitStack() as stack:
        if options.keep:
            options.keep.mkdir(parents=True)
            work = options.keep.resolve()
        else:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="starmere-")))
        groups: list[tuple[str, int, Callable[[], None]]] = [
            ("itself", 1, lambda: itself(tests)),
            ("shop", 141 + options.queries * 3 // 4, lambda: shop(tests, starmere, work / "shop", options.orders, options.queries)),
            ("engines", 49, lambda: tests.suite("every kind of table, as other engines read it", 49, sys.executable,
                                                PYTHON_TESTS / "every_kind.py", starmere, work / "engines")),
            ("s3", 10, lambda: s3(tests, starmere, work / "s3")),
            ("kafka", 8, lambda: kafka(tests, starmere, work / "kafka")),
            ("formats", 38, lambda: tests.suite("the same orders in every format", 38, sys.executable,
                                                PYTHON_TESTS / "formats.py", starmere, work / "formats")),
            ("pages", 6, lambda: tests.suite("what docs say", 6, sys.executable, PYTHON_TESTS / "pages.py", starmere,
                                             work / "pages")),
            ("many", 3, lambda: many(tests, starmere, work / "many")),
            ("flights", 19, lambda: flights(tests, starmere, work / "flights", options.flights)),
            ("figures", 16, lambda: tests.suite("figures", 16, sys.executable, PYTHON_TESTS / "figures.py")),
            ("abuse", 6, lambda: tests.suite("abuse", 6, sys.executable, PYTHON_TESTS / "abuse.py", starmere,
                                             work / "abuse", "--seconds", options.abuse)),
        ]
        for name, least, act in groups:
            tests.group(name, least, act)
    print(f"{tests.passed} passed, {tests.failed} failed", flush=True)
    raise SystemExit(1 if tests.failed else 0)


if __name__ == "__main__":
    main()

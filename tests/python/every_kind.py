#!/usr/bin/env python3
"""A warehouse with every kind of table, read by engines that are not ours.

    python every_kind.py target/debug/starmere DIR

A project with a model of each kind is landed and built three times: from nothing; with customers who move, so that the
dimension's large file gets columns anew; with moves that were told late, so that the fact's files do. Then each model
must have rows, the files of both must say which columns are other ones, the engines of `outsiders.py` must agree about
every table, and DuckDB must read from the files what Starmere answers. Exit 1 if a check fails.
"""

import json
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable, Iterator

import deltalake
import outsiders

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from demo import Server, ask  # noqa: E402

PERSONS = 40_000  # more than a small file has, so that a change replaces columns
PRODUCTS = 60
ORDERS = 12_000
BEGIN = datetime(2024, 1, 1)
LIKE = "starmere.like"

STREAM = """
stream: shop
domain: d
envelope: { id: id, type: type, time: at }
events:
  told:
    versions:
      1:
        fields:
          person: { type: string }
          name: { type: string }
          via: { type: string }
          city: { type: string }
          office: { type: string }
          grade: { type: int }
          boss: { type: string }
          born: { type: date }
          likes: { type: string }
  left: { versions: { 1: { fields: { person: { type: string } } } } }
  grouped: { versions: { 1: { fields: { department: { type: string }, head: { type: string } } } } }
  listed: { versions: { 1: { fields: { product: { type: string }, brand: { type: string }, maker: { type: string }, department: { type: string } } } } }
  sold:
    versions:
      1:
        fields:
          number: { type: string }
          person: { type: string }
          freight: { type: "decimal(9,2)" }
          is_gift: { type: bool }
          lines: { each: { product: { type: string }, quantity: { type: int }, price: { type: "decimal(9,2)" }, weight: { type: double } } }
  paid: { versions: { 1: { fields: { number: { type: string }, amount: { type: "decimal(9,2)" } } } } }
  stated: { versions: { 1: { fields: { invoice: { type: string }, amount: { type: "decimal(9,2)" }, status: { type: string } } } } }
  opened: { versions: { 1: { fields: { account: { type: string }, holders: { each: { person: { type: string }, share: { type: int } } } } } } }
"""

MODELS = {
    "person": """
dimension: person
key: person
from:
  - { stream: shop, event: told, as: patch }
  - { stream: shop, event: left, as: delete }
attributes:
  via:    { type: string, history: keep }
  name:   { type: string, history: overwrite }
  boss:   { type: string, history: overwrite }
  born:   { type: date, history: overwrite }
  city:   { type: string, history: version }
  office: { type: string, history: previous }
  grade:  { type: int, history: [version, current] }
  likes:  { type: string, history: overwrite }
mini: { taste: [likes] }
inferred_from: [d.lines, d.holders]
""",
    "department": """
dimension: department
key: department
from: [{ stream: shop, event: grouped, as: state }]
attributes: { head: { type: string, history: version } }
inferred_from: [d.product]
""",
    "product": """
dimension: product
key: product
from: [{ stream: shop, event: listed, as: state }]
attributes:
  brand: { type: string, history: version }
  maker: { type: string, history: overwrite }
references: { department: { dimension: department, key: department, as_of: version } }
inferred_from: [d.lines]
""",
    "date": "dimension: date\ncalendar: { from: 2023-01-01, to: 2025-12-31, fiscal_year_begins: 4 }\n",
    "hour": "dimension: hour\ntime_of_day: { every: hour }\n",
    "price_band": 'dimension: price_band\nbands: { of: "decimal(9,2)", names: { small: 20, medium: 100, large: } }\n',
    "flags": "dimension: flags\njunk: { is_gift: bool }\ninferred_from: [d.orders]\n",
    "lines": """
fact: lines
from: { stream: shop, event: sold, each: lines }
where: quantity > 0
grain: [event_id, line]
dimensions:
  person: { dimension: person, key: person }
  product: { dimension: product, key: product }
  day: { dimension: date, key: CAST(occurred_at AS DATE) }
degenerate: { number: {}, line: { expression: ordinal, type: int } }
measures:
  quantity: {}
  price: {}
  weight: { additive: none }
audit: true
""",
    "orders": """
fact: orders
from: { stream: shop, event: sold }
grain: event_id
dimensions: { flags: { dimension: flags, key: is_gift } }
degenerate: { number: {} }
measures: { freight: {} }
""",
    "payments": """
fact: payments
from: { stream: shop, event: paid }
grain: event_id
degenerate: { number: {} }
measures: { amount: {} }
""",
    "statements": """
fact: statements
from: { stream: shop, event: stated }
grain: event_id
degenerate: { invoice: {}, status: {} }
measures: { amount: {} }
""",
    "holders": """
fact: holders
from: { stream: shop, event: opened, each: holders }
grain: [event_id, ordinal]
dimensions: { holder: { dimension: person, key: person } }
degenerate: { account: {} }
measures: { share: {} }
""",
    "priced": """
derived_fact: priced
of: lines
measures: { revenue: { expression: fact.quantity * fact.price, type: "decimal(18,2)" } }
degenerate: { brand: { expression: product.brand } }
""",
    "sold_by_month": """
periodic_snapshot: sold_by_month
of: lines
every: month
from: 2024-01-01
to: 2025-12-31
by: product
balances: { so_far: quantity }
flows: { sold: quantity }
levels: { last_price: price }
""",
    "fulfilment": """
accumulating_snapshot: fulfilment
grain: number
milestones: { placed: { fact: orders }, paid: { fact: payments } }
measures: { freight: placed.freight, received: paid.amount }
lags: { to_pay: [placed, paid] }
""",
    "invoices": "ledger: invoices\nof: statements\nby: invoice\nvoids: fact.status = 'cancelled'\n",
    "with_freight": "allocation: with_freight\nof: lines\nheader: orders\non: number\namounts: { freight: freight }\nweight: price\n",
    "account_holders": "bridge: account_holders\nof: holders\ngroup: account\nmember: holder\nweight: share\n",
    "reporting": "hierarchy: reporting\nof: person\nparent: boss\n",
    "brand": "shrunken_dimension: brand\nof: product\nkey: brand\n",
    "by_month": """
rollup: by_month
of: lines
by: { month: day.year_month, city: person.city }
dimensions: { brand: { dimension: brand, role: product } }
measures: [quantity, price]
count: lines
""",
    "cities": """
sql: cities
select: >
  SELECT p.city, count(*) AS lines, sum(l.quantity) AS quantity, max(l.price) AS dearest
  FROM lines l JOIN person p ON p.person_key = l.person_key
  GROUP BY p.city
grain: city
""",
}
MADE = ["taste", "person_taste"]  # by the dimension `person`


def event(event_id: str, kind: str, at: datetime, **fields: Any) -> str:
    return json.dumps({"id": event_id, "type": kind, "at": at.isoformat() + "Z", **fields})


def city(number: int) -> str:
    return ["Ulm", "Zürich", "東京", "Bern", "Chur"][number % 5]


def first() -> Iterator[str]:
    for number in range(PERSONS):
        yield event(f"t{number}", "told", BEGIN + timedelta(seconds=number), person=f"p{number}", name=f"Name {number}",
                    via=["web", None, "shop"][number % 3], city=city(number), office=f"o{number % 40}", grade=number % 9,
                    boss=f"p{number // 8}" if 0 < number < 2000 else None, born=f"19{number % 90 + 10}-02-03",
                    likes=["tea", "coffee"][number % 2])
    for number in range(8):
        yield event(f"g{number}", "grouped", BEGIN, department=f"d{number}", head=f"p{number}")
    for number in range(PRODUCTS):
        yield event(f"l{number}", "listed", BEGIN + timedelta(days=number), product=f"x{number}", brand=f"b{number % 7}",
                    maker=f"m{number % 3}", department=f"d{number % 9}")
    for number in range(ORDERS):
        at = BEGIN + timedelta(minutes=37 * number)
        lines = [{"product": f"x{(number + part) % (PRODUCTS + 3)}", "quantity": number % 7, "weight": number / 3,
                  "price": f"{(number * 7 + part) % 300}.{number % 100:02}"} for part in range(1 + number % 3)]
        yield event(f"s{number}", "sold", at, number=f"n{number}", person=f"p{number * 3}", lines=lines, is_gift=number % 5 == 0,
                    freight=f"{number % 20}.50")
        if number % 2:
            yield event(f"y{number}", "paid", at + timedelta(hours=number % 90), number=f"n{number}", amount=f"{number % 400}.25")
        if number % 4 == 0:
            yield event(f"i{number}", "stated", at, invoice=f"i{number % 997}", amount=f"{number % 500}.99",
                        status="cancelled" if number % 7 == 0 else "open")
        if number % 10 == 0:
            yield event(f"a{number}", "opened", at, account=f"a{number}",
                        holders=[{"person": f"p{number + part}", "share": 1 + part} for part in range(1 + number % 3)])


def moves() -> Iterator[str]:
    """Some move, some leave: their versions end, and most of the others are as they were."""
    at = BEGIN + timedelta(days=200)
    for number in range(0, PERSONS, 400):
        yield event(f"m{number}", "told", at, person=f"p{number}", city=city(number + 1), office="new")
    for number in range(7, PERSONS, 4000):
        yield event(f"q{number}", "left", at, person=f"p{number}")
    for number in range(5):
        yield event(f"h{number}", "grouped", at, department=f"d{number}", head="somebody else")


def late() -> Iterator[str]:
    """Moves that happened long before they were told: what was sold since is another version's."""
    for number in range(0, PERSONS, 300):
        yield event(f"w{number}", "told", BEGIN + timedelta(days=20), person=f"p{number}", city=city(number + 2))


def write_project(starmere: str, project: Path) -> None:
    subprocess.run([starmere, "init", project], check=True, capture_output=True)
    (project / "streams" / "shop.yaml").write_text(STREAM.lstrip(), encoding="utf-8")
    models = project / "domains" / "d" / "models"
    models.mkdir(parents=True)
    for name, text in MODELS.items():
        (models / f"{name}.yaml").write_text(text.lstrip(), encoding="utf-8")
    text = (project / "starmere.yaml").read_text(encoding="utf-8")
    (project / "starmere.yaml").write_text(text.replace("sources: {}", "sources: { shop: { stream: shop, files: in } }"),
                                           encoding="utf-8")
    (project / "in").mkdir()


def table(project: Path, model: str) -> Path:
    [rows] = (project / "warehouse" / "models" / "d" / model).glob("*/rows")
    return rows


def fields(path: Path) -> dict[str, str]:
    """The columns of a table, with their types as definitions have them."""
    words = {"boolean": "bool", "integer": "int", "long": "bigint"}
    found = {field.name: str(field.type.type) for field in deltalake.DeltaTable(str(path)).schema().fields}
    return {name: words.get(of, of.replace(" ", "")) for name, of in found.items()}


def write_ports(project: Path) -> None:
    """Every model as a port, with all of its columns."""
    lines = ["product: all\nversion: 1\nowner: a@example.com\nports:"]
    for model in [*MODELS, *MADE]:
        lines += [f"  {model}:\n    model: {model}\n    columns:"]
        lines += [f'      {name}: {{ type: "{of}" }}' for name, of in fields(table(project, model)).items()]
    products = project / "domains" / "d" / "products"
    products.mkdir()
    (products / "all.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def files_with_other_columns(path: Path) -> int:
    """Of the files that the newest version has."""
    named = {Path(uri).name for uri in deltalake.DeltaTable(str(path)).file_uris()}
    commits = (json.loads(line) for log in sorted((path / "_delta_log").glob("*.json")) for line in log.open(encoding="utf-8"))
    return sum(LIKE in (commit["add"].get("tags") or {}) for commit in commits
               if "add" in commit and Path(commit["add"]["path"]).name in named)


def as_starmere_answers(project: Path, flight: str) -> None:
    """DuckDB reads from the files what Starmere answers: rows, columns, and each column's values."""
    duck = outsiders.DuckDB()
    for name, path in [("lake.d.shop", project / "warehouse" / "lake" / "d" / "shop"),
                       *((f"d.all_v1.{model}", table(project, model)) for model in [*MODELS, *MADE])]:
        theirs = duck.schema(path).names
        ours = ask(flight, f"SELECT * FROM {name}")
        same(sorted(ours.column_names), sorted(theirs), f"columns of {name}")
        for column in theirs:
            same(outsiders.checksum(outsiders.plain(ours[column])),
                 outsiders.checksum(outsiders.plain(duck.column(path, column))), f"{name}, `{column}`")


def same(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: found {found}, expected {expected}")


def main() -> int:
    starmere, project = sys.argv[1], Path(sys.argv[2]).resolve()
    passed = failed = 0

    def check(name: str, act: Callable[[], None]) -> None:
        nonlocal passed, failed
        began, wrong = time.perf_counter(), None
        try:
            act()
        except Exception as error:  # a check fails by raising whatever
            wrong = f"{type(error).__name__}: {error}"
        passed, failed = passed + (wrong is None), failed + (wrong is not None)
        print(f"{'ok  ' if wrong is None else 'FAIL'}  {name}  ({time.perf_counter() - began:.1f} s)", flush=True)
        if wrong is not None:
            print(f"      {wrong}", flush=True)

    def does(*words: str) -> None:
        done = subprocess.run([starmere, *words, "--project", str(project)], capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise AssertionError(f"`{' '.join(words)}` ended with {done.returncode}: {done.stderr}")

    def land_and_build(events: Callable[[], Iterator[str]]) -> None:
        (project / "in" / f"{events.__name__}.jsonl").write_text("".join(f"{line}\n" for line in events()), encoding="utf-8")
        does("ingest", "--once")
        does("build")

    def have_rows(models: list[str]) -> None:
        empty = [model for model in models if not deltalake.DeltaTable(str(table(project, model))).count()]
        same(empty, [], "models without rows")

    def has_other_columns(model: str) -> None:
        if not files_with_other_columns(table(project, model)):
            raise AssertionError(f"no file of `{model}` was made of another one, with some columns replaced")

    check("written", lambda: write_project(starmere, project))
    check("from nothing", lambda: land_and_build(first))
    check("customers move", lambda: land_and_build(moves))
    check("a dimension's file has columns replaced", lambda: has_other_columns("person"))
    check("moves are told late", lambda: land_and_build(late))
    check("a fact's file has columns replaced", lambda: has_other_columns("lines"))
    check("every model has rows", lambda: have_rows([*MODELS, *MADE]))
    check("each is a port", lambda: (write_ports(project), does("build")))
    with Server(Path(starmere), project) as server:
        check("DuckDB reads what Starmere answers", lambda: as_starmere_answers(project, server.flight))
    engines = subprocess.run([sys.executable, str(Path(outsiders.__file__)), str(project / "warehouse")], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
    print(engines.stdout, flush=True)
    *_, counts = engines.stdout.splitlines()
    passed, failed = passed + int(counts.split()[0]), failed + int(counts.split()[2])
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

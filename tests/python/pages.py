#!/usr/bin/env python3
"""Do the pages of docs say what there is?

    python pages.py target/debug/starmere DIR

docs/keys.md must list the keys that `starmere init --schemas` writes, and no others; YAML of the pages must fit these
schemas, and `check` must accept the projects of the pages about sources and formats. Commands are the binary's, with
their flags; those of docs/sources/files.md, docs/http.md and docs/sources/http.md are run over a small shop. (Pages of
docs/models are tested by tests/pages.rs.) Exit 1 if a check fails.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from demo import Server  # noqa: E402

DOCS = ROOT / "docs"
ADDRESS = "http://127.0.0.1:7070"  # what the pages post to
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"^ {4}\S.*\n(?: {4}.*\n)*", re.M)
LEAST_COMMANDS = 25  # found in the pages
FILES = {"project": "starmere.yaml"}  # what docs/keys.md calls a kind that has no first key


class Text(yaml.SafeLoader):
    """Days and times stay texts, and `on` is one, as in YAML 1.2."""


Text.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":bool"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
Text.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def only(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def fences(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [match[2] for match in FENCE.finditer(text) if match[1] == language]


def named(value: Any) -> Any:
    """The same, its keys being text, as in JSON: versions are numbers."""
    if isinstance(value, dict):
        return {str(key): named(part) for key, part in value.items()}
    return [named(part) for part in value] if isinstance(value, list) else value


def keys(schema: dict[str, Any]) -> set[str]:
    """Dotted; `NAME` where any name may stand."""
    found: set[str] = set()

    def walk(node: Any, path: str, within: frozenset[str]) -> None:
        if not isinstance(node, dict):
            return
        if "$ref" in node:
            name = node["$ref"].rsplit("/", 1)[-1]
            if name not in within:  # fields within fields
                walk(schema["$defs"][name], path, within | {name})
        for key, value in node.get("properties", {}).items():
            found.add(path + key)
            walk(value, f"{path}{key}.", within)
        for word in ("anyOf", "oneOf", "allOf"):
            for part in node.get(word, []):
                walk(part, path, within)
        walk(node.get("items"), path, within)
        for part in [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]:
            walk(part, f"{path}NAME.", within)

    walk(schema, "", frozenset())
    return found


class Pages:
    def __init__(self, starmere: Path, work: Path) -> None:
        self.starmere, self.work = starmere, work
        self.helps: dict[tuple[str, ...], str] = {}
        work.mkdir(parents=True)
        (work / "bin").mkdir()
        (work / "bin" / "starmere").symlink_to(starmere)
        self.does("init", "--schemas", str(work))
        self.schemas = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (work / "schemas").glob("*.json")}

    def does(self, *words: str, **environment: str) -> str:
        done = subprocess.run([str(self.starmere), *words], capture_output=True, text=True, timeout=300,
                              env=os.environ | environment)
        only(done.returncode == 0, f"`starmere {' '.join(words)}` ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def shell(self, text: str, folder: Path) -> str:
        """What a shell says to a command of a page."""
        path = f"{self.work / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(["sh", "-euc", text], cwd=folder, capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL, env=os.environ | {"PATH": path})
        only(done.returncode == 0, f"`{text}` ended with {done.returncode}: {done.stderr}")
        return done.stdout

    # Definitions.

    def keys_are_listed(self) -> None:
        text = (DOCS / "keys.md").read_text(encoding="utf-8")
        sections = {title: set(re.findall(r"^\| `([^`]+)` \|", section, re.M))
                    for title, section in re.findall(r"^## `([^`]+)`\n(.*?)(?=^## |\Z)", text, re.M | re.S)}
        kinds = {FILES.get(kind, kind): keys(schema) for kind, schema in self.schemas.items()}
        only(len(kinds) >= 16, f"only {sorted(kinds)}")
        only(set(sections) == set(kinds), f"the page has {sorted(sections)}, there are {sorted(kinds)}")
        for kind, real in kinds.items():
            listed = {key.replace("NUMBER", "NAME") for key in sections[kind]}
            only(listed == real, f"`{kind}`: only the page has {sorted(listed - real)}, only schemas have {sorted(real - listed)}")

    def kind(self, definition: dict[str, Any]) -> str | None:
        """What a definition is by its first key; none where it is a part of one."""
        first = next(iter(definition))
        return first if first in self.schemas else None

    def yaml_fits_the_schemas(self) -> None:
        tried = 0
        for page in ["definitions.md", "formats.md", "operations.md", *(f"sources/{path.name}" for path in (DOCS / "sources").iterdir())]:
            for text in fences(page, "yaml"):
                if text.startswith(" "):
                    continue  # an excerpt
                definition = named(yaml.load(text, Text))
                if (kind := self.kind(definition)) is None:
                    continue
                tried += 1
                try:
                    jsonschema.validate(definition, self.schemas[kind])
                except jsonschema.ValidationError as error:
                    raise AssertionError(f"docs/{page}: {error.json_path}: {error.message}\n{text[:200]}") from None
        only(tried >= 10, f"only {tried} definitions were tried")

    def projects_are_right(self) -> None:
        stream = "stream: orders\ndomain: sales\nenvelope: { constant_type: seen, time: at }\n"
        for number, page in enumerate(["sources/files.md", "sources/kafka.md", "sources/http.md", "formats.md"]):
            project = self.work / f"project-{number}"
            (project / "streams").mkdir(parents=True)
            (project / "streams" / "orders.yaml").write_text(stream, encoding="utf-8")
            written = []
            for text in fences(page, "yaml"):
                if named := re.match(r"# (\S+\.yaml)\n", text):
                    written.append(named[1])
                    (project / named[1]).write_text(text, encoding="utf-8")
            only("starmere.yaml" in written, f"docs/{page} shows no starmere.yaml")
            (project / "inbox" / "orders").mkdir(parents=True)
            self.does("check", "--project", str(project), SHOP_PASSWORD="secret")

    # Commands.

    def help(self, *command: str) -> str:
        if command not in self.helps:
            self.helps[command] = self.does(*command, "--help")
        return self.helps[command]

    def shown_commands(self) -> Iterator[tuple[str, str]]:
        for path in sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "ARCHITECTURE.md"]):
            text = path.read_text(encoding="utf-8")
            blocks = [match[2] for match in FENCE.finditer(text) if match[1] in ("", "sh")]
            blocks += INDENTED.findall(FENCE.sub("", text))
            commands = re.findall(r"`starmere ([^`]+)`", FENCE.sub("", text))
            for block in blocks:
                commands += re.findall(r"^(?:\s*|\s*\$ |.*\| )starmere ((?:[a-z-]|\\\n)[^\n|]*(?:\\\n[^\n]*)*)", block, re.M)
            yield from ((path.name, command.replace("\\\n", " ")) for command in commands)

    def commands_are_the_binarys(self) -> None:
        tried, wrong = 0, []
        for page, text in self.shown_commands():
            words = text.split("#")[0].split()
            command = [word for word in words if re.fullmatch(r"[a-z]+", word)][:1]
            if not command or words[0] != command[0] and not words[0].startswith("--"):
                continue
            tried += 1
            try:
                said = self.help(*command)
                inner = words[words.index(command[0]) + 1:][:1]
                if inner and re.search(rf"^  {re.escape(inner[0])}( |$)", said, re.M):
                    said += self.help(*command, *inner)
            except AssertionError as error:
                wrong.append(f"{page}: `starmere {text}`: {str(error)[:200]}")
                continue
            wrong += [f"{page}: `starmere {text}`: there is no `{flag}`" for flag in re.findall(r"(?<!\S)--[a-z-]+", text)
                      if not re.search(rf"{flag}\b(?!-)", said)]
        only(not wrong, "\n".join(wrong))
        only(tried >= LEAST_COMMANDS, f"only {tried} commands were found")

    # The shop.

    def shop(self) -> Path:
        project = self.work / "shop"
        if not project.exists():
            self.does("init", str(project), "--example", "shop", "--size", "50")
        return project

    def files_land_as_shown(self) -> None:
        [block] = [block for block in INDENTED.findall((DOCS / "sources" / "files.md").read_text(encoding="utf-8")) if "zcat" in block]
        first, second = (line.strip() for line in block.strip().splitlines())
        project = self.shop()
        lines = (project / "events-http" / "orders.jsonl").read_bytes().splitlines(keepends=True)
        (project / "export.jsonl").write_bytes(b"".join(lines[:10]))
        (project / "old.jsonl").write_bytes(b"".join(lines[10:]))
        self.shell("gzip old.jsonl && mv old.jsonl.gz old.gz", project)
        count = "starmere --quiet --format csv sql 'SELECT count(*) AS n FROM lake.sales.orders'"
        for command, expected in [(first, 10), (second, len(lines)), (first, len(lines))]:
            self.shell(command, project)
            found = int(self.shell(count, project).split()[-1])
            only(found == expected, f"`{command}` made {found} rows, not {expected}")

    def requests_are_answered_as_shown(self) -> None:
        project = self.shop()
        events = (project / "events-http" / "orders.jsonl").read_bytes()
        (project / "orders.jsonl").write_bytes(events)
        self.does("ingest", "--once", "--project", str(project))
        self.does("build", "--project", str(project))
        page = (DOCS / "http.md").read_text(encoding="utf-8")
        post, query = (text.strip() for text in fences("http.md", "sh"))
        [shown] = [json.loads(line) for line in re.findall(r"^    (\{.*\})$", page, re.M)]
        [body] = fences("http.md", "json")
        [with_key] = [block for block in INDENTED.findall((DOCS / "sources" / "http.md").read_text(encoding="utf-8")) if "curl" in block]
        with Server(self.starmere, project) as server:
            def curl(command: str) -> Any:
                only(ADDRESS in command, f"`{command}` asks elsewhere")
                return self.shell(command.replace(ADDRESS, server.http).replace("curl ", "curl --silent --show-error --fail "), project)

            answer = json.loads(curl(post))
            only(set(answer) <= set(shown), f"the page shows {shown}, the answer is {answer}")
            only(set(shown) - set(answer) <= {"first_rejection"}, f"the page shows {shown}, the answer is {answer}")
            only(answer["accepted"] == len(events.splitlines()) and answer["delivery"] == shown["delivery"], f"it is {answer}")
            only(json.loads(curl(query))["rows"][0][0] > 0, "no rows")
            # Without users, nobody has a password.
            again = json.loads(curl(with_key.strip().replace("curl -u shop", "curl")))
            only(again["delivery"] == "exactly once", f"with a key: {again}")
            (project / "query.json").write_text(body, encoding="utf-8")
            asked = curl(f"curl --data-binary @query.json -H 'Content-Type: application/json' {ADDRESS}/v1/sql")
            only("," in asked.splitlines()[0] and not asked.startswith("{"), f"CSV was asked for: {asked[:200]}")


def main() -> int:
    pages = Pages(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
    checks: list[Callable[[], None]] = [pages.keys_are_listed, pages.yaml_fits_the_schemas, pages.projects_are_right,
                                        pages.commands_are_the_binarys, pages.files_land_as_shown,
                                        pages.requests_are_answered_as_shown]
    failed = 0
    for check in checks:
        began, wrong = time.perf_counter(), None
        try:
            check()
        except Exception as error:  # whatever goes wrong is this check's failure
            wrong = f"{type(error).__name__}: {error}"
        failed += wrong is not None
        print(f"{'ok  ' if wrong is None else 'FAIL'}  {check.__name__.replace('_', ' ')}  ({time.perf_counter() - began:.1f} s)", flush=True)
        if wrong is not None:
            print(f"      {wrong}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

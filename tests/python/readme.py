#!/usr/bin/env python3
"""Does README.md show what is there?

    STARMERE_ENDPOINT=grpc://127.0.0.1:7071 STARMERE_PROJECT=demo STARMERE_BINARY=target/debug/starmere python readme.py

Excerpts of definitions must be literally in the files they are said to be from, `make` commands in the Makefile,
links must lead somewhere. Each variable adds what it is needed for: with an endpoint, the Python of README is
run against it; with the project that is served there, its answer must be one of the project's right ones; with a
binary, the commands must be the binary's. What is left out is said. Exit 0 if all checks pass.
"""

import csv
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "grpc://127.0.0.1:7071"  # what README connects to
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
RUNNABLE = {"yaml", "python", "sh"}


class Block(NamedTuple):
    language: str
    text: str
    before: str


def blocks(language: str | None = None) -> list[Block]:
    found = [Block(match[1], match[2], README[:match.start()]) for match in FENCE.finditer(README)]
    return [block for block in found if language in (None, block.language)]


def only(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def every_block_is_checked() -> None:
    languages = Counter(block.language for block in blocks())
    only(set(languages) == RUNNABLE, f"blocks of {sorted(languages)}; this test knows {sorted(RUNNABLE)}")


def excerpts_are_in_their_files() -> None:
    for block in blocks("yaml"):
        files = re.findall(r"`(\S+\.yaml)`", block.before)
        only(bool(files), f"nothing says where this is from:\n{block.text}")
        content = (ROOT / files[-1]).read_text(encoding="utf-8")
        only(f"\n{block.text}" in f"\n{content}", f"not in {files[-1]}:\n{block.text}")


def there_is_one_of_each_kind() -> None:
    text = "".join(block.text for block in blocks("yaml"))
    for key in ("sources", "stream", "attributes", "fact", "product"):
        only(re.search(rf"^{key}:", text, re.M) is not None, f"no excerpt has `{key}:`")


def make_commands_are_in_the_makefile() -> None:
    shown = {line for block in blocks("sh") for line in block.text.splitlines()}
    shown |= set(re.findall(r"`(make \w+)`", README))
    targets = set(re.findall(r"^(\w+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for line in sorted(shown):
        words = line.split()
        only(len(words) == 2 and words[0] == "make" and words[1] in targets, f"`{line}` is no target of the Makefile")


def links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        only("://" not in target and (ROOT / target).exists(), f"`{target}` does not exist")


def python_gives_a_right_answer() -> None:
    [block] = blocks("python")
    only(block.text.count(ADDRESS) == 1, f"README connects to {ADDRESS} once")
    names: dict = {}
    exec(compile(block.text.replace(ADDRESS, os.environ["STARMERE_ENDPOINT"]), "README.md", "exec"), names)
    answer = names["answer"]
    only(answer.num_rows > 0, "no rows")
    if project := os.environ.get("STARMERE_PROJECT"):
        texts = [["" if value is None else str(value) for value in column.to_pylist()] for column in answer.columns]
        found = (answer.column_names, Counter(zip(*texts)))
        right = [right_answer(Path(project) / folder) for folder in ("expected", "expected/with_http")]
        only(found in right, "the answer is neither the one of the files nor the one with posted orders")


def right_answer(folder: Path) -> tuple[list[str], Counter]:
    with (folder / "revenue_by_segment_month.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, Counter(map(tuple, rows))


def commands_are_the_binarys() -> None:
    def said(*words: str) -> str:
        done = subprocess.run([os.environ["STARMERE_BINARY"], *words], capture_output=True, text=True, timeout=60)
        only(done.returncode == 0, f"`starmere {' '.join(words)}` ended with status {done.returncode}: {done.stderr}")
        return done.stdout

    section = re.search(r"^Commands:\n(.*?)^\S", said("--help"), re.M | re.S)
    only(section is not None, "`starmere --help` has no section `Commands:`")
    real = set(re.findall(r"^  ([a-z]+)", section[1], re.M)) - {"help"}
    shown = set(re.findall(r"^\| `starmere (\w+)` \|", README, re.M))
    only(shown == real, f"only README: {sorted(shown - real)}; only the binary: {sorted(real - shown)}")
    for command, text in re.findall(r"^\| `starmere (\w+)` \| (.*) \|$", README, re.M):
        for flag in re.findall(r"`(--[a-z-]+)", text):
            only(flag in said(command, "--help"), f"`starmere {command}` has no `{flag}`")
    for flag in ("--project", "--format", "--quiet", "--verbose"):
        only(flag in said("--help"), f"`starmere` has no `{flag}`")


CHECKS: list[tuple[Callable[[], None], str | None]] = [
    (every_block_is_checked, None),
    (excerpts_are_in_their_files, None),
    (there_is_one_of_each_kind, None),
    (make_commands_are_in_the_makefile, None),
    (links_lead_somewhere, None),
    (commands_are_the_binarys, "STARMERE_BINARY"),
    (python_gives_a_right_answer, "STARMERE_ENDPOINT"),
]


def main() -> None:
    passed = failed = 0
    for check, needed in CHECKS:
        name = check.__name__.replace("_", " ")
        if needed and not os.environ.get(needed):
            print(f"--    {name}: left out, {needed} is not set")
            continue
        try:
            check()
        except Exception as error:  # whatever goes wrong is this check's failure
            failed += 1
            print(f"FAIL  {name}\n      {type(error).__name__}: {error}")
        else:
            passed += 1
            print(f"ok    {name}")
    print(f"{passed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

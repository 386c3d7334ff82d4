"""Turns pydantic's findings into sentences: file, key path, what is wrong, what is allowed, the nearest match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from kxbatch.errors import nearest
from kxbatch.spec.model import InputSection, JobSection, StageConfig

Kinds = Mapping[str, type[StageConfig]]


def explain(error: ValidationError, raw: Mapping[str, Any], kinds: Kinds, origin: str) -> str:
    """Every finding on a line of its own, the file's name in front."""
    details = error.errors()
    if len(details) > 1:  # a stage that is wrong also leaves the list of stages too short: no news
        details = [d for d in details if d["type"] != "too_short" or d["loc"] != ("stage",)]
    lines = [f"{origin}: {_sentence(detail, raw, kinds)}" for detail in details]
    return "\n".join(dict.fromkeys(lines))


def _sentence(detail: Any, raw: Mapping[str, Any], kinds: Kinds) -> str:
    loc: list[Any] = list(detail["loc"])
    if len(loc) > 2 and loc[0] == "stage" and loc[2] in kinds:
        del loc[2]  # pydantic names the union's member; a person wrote no such key
    where, kind = _path(loc, raw), detail["type"]
    if kind == "extra_forbidden":
        allowed = _fields(loc, raw, kinds)
        return f"unknown key {where}{nearest(str(loc[-1]), allowed)} (allowed: {', '.join(allowed)})"
    if kind == "union_tag_invalid":
        given = str(detail["ctx"]["tag"])
        return f"{where}.kind: unknown kind '{given}'{nearest(given, kinds)} (allowed: {', '.join(sorted(kinds))})"
    if kind == "union_tag_not_found":
        return f"{where}: a stage needs a kind (allowed: {', '.join(sorted(kinds))})"
    if kind == "missing":
        return f"{where} is missing; it has no default"
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = detail.get("input")
    if kind == "literal_error":
        allowed = [part.strip(" '") for part in detail["ctx"]["expected"].replace(" or ", ",").split(",")]
        return f"{where} = {given!r}: allowed: {', '.join(allowed)}{nearest(str(given), allowed)}"
    shown = f" = {given!r}" if isinstance(given, str | int | float | bool) and kind != "value_error" else ""
    return f"{where}{shown}: {message}" if where else message


def _path(loc: list[Any], raw: Mapping[str, Any]) -> str:
    """`stage[1] (whiten).resources.cpus`: as one would look for it in the file."""
    text = ""
    for depth, part in enumerate(loc):
        if isinstance(part, int):
            text += f"[{part}]"
            if depth == 1 and loc[0] == "stage":
                stage = raw["stage"][part]
                label = (stage.get("name") or stage.get("kind")) if isinstance(stage, dict) else None
                text += f" ({label})" if label else ""
        else:
            text += f".{part}" if text else str(part)
    return text


def _fields(loc: list[Any], raw: Mapping[str, Any], kinds: Kinds) -> list[str]:
    """The keys that would have been right where the unknown one stands."""
    if len(loc) == 1:
        return ["job", "input", "stage"]
    model: Any = {"job": JobSection, "input": InputSection}.get(loc[0])
    rest = loc[1:-1]
    if loc[0] == "stage":
        model, rest = kinds.get(raw["stage"][loc[1]].get("kind"), StageConfig), loc[2:-1]
    for part in rest:
        model = _model_in(model.model_fields[part].annotation) if part in model.model_fields else None
        if model is None:
            return []
    return list(model.model_fields) if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None

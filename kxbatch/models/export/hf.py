"""A trained text encoder as a folder for transformers and sentence-transformers, with its own code in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save

from kxbatch.errors import FatalError
from kxbatch.models.export.one_file import one_file
from kxbatch.models.export.parity import Answer, Parity, answers, compare
from kxbatch.models.tokenization import ROLES
from kxbatch.models.trained_text import CONFIG, TOKENIZER, WEIGHTS, TrainedText

TOLERANCE = 1e-4  # the code is the same; how many threads multiply may not be
_CONFIGURATION, _MODEL = "configuration_kxbatch", "modeling_kxbatch"
_HERE = "kxbatch.models.export"
_SHOWN = 1500  # last characters of a failed check's output
_MODES = ("cls_token", "mean_tokens")
_POOLINGS = {"cls": "cls", "last-mean": "mean"}  # that sentence-transformers has


def write_hf(source: Path, target: Path) -> None:
    """Fill a folder that transformers loads where kxbatch is not.

    Args:
        source: a trained text encoder.
        target: an empty folder.
    """
    trained = TrainedText.read(source)
    (target / WEIGHTS).write_bytes(save(load_file(source / WEIGHTS), metadata={"format": "pt"}))
    (target / f"{_CONFIGURATION}.py").write_text(one_file(f"{_HERE}.hf_configuration", {}), "utf-8")
    beside = {f"{_HERE}.hf_configuration": f".{_CONFIGURATION}"}
    (target / f"{_MODEL}.py").write_text(one_file(f"{_HERE}.hf_model", beside), "utf-8")
    _write_json(target / CONFIG, _config(trained))
    write_tokenizer(source, target, trained)
    _write_sentence_files(target, trained)


def write_tokenizer(source: Path, target: Path, trained: TrainedText) -> None:
    """`tokenizer.json` as it is, and beside it what `AutoTokenizer` wants to know."""
    backend = trained.tokenizer(source).backend
    spelled = {f"{role}_token": backend.id_to_token(trained.special[role]) for role in ROLES}
    shutil.copyfile(source / TOKENIZER, target / TOKENIZER)
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **spelled,
        "model_max_length": trained.max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # special tokens spelled out in a text are text, as in training
    }
    _write_json(target / "tokenizer_config.json", facts)


def check_hf(source: Path, target: Path) -> Parity:
    """Load the folder in a process that cannot import kxbatch, by transformers and by sentence-transformers, and compare.

    Raises:
        FatalError: it cannot be loaded there, or gives other numbers.
    """
    expected = answers(source)
    with tempfile.TemporaryDirectory(prefix="kxbatch-convert-") as scratch:
        _write_json(Path(scratch, "batches.json"), [answer.texts for answer in expected])
        script = Path(__file__).with_name("without_kxbatch.py")
        environment = os.environ | {"HF_MODULES_CACHE": f"{scratch}/modules", "HF_HUB_OFFLINE": "1"}
        words = [sys.executable, "-P", str(script), str(target), scratch]
        # without a standard input: transformers would ask there whether the tokenizer's folder may run its code
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise FatalError(f"the converted model cannot be loaded without kxbatch: {done.stderr.strip()[-_SHOWN:]}")
        arrays = load_arrays(Path(scratch, "found.safetensors"))
    found = [_answer(arrays, i, answer.texts) for i, answer in enumerate(expected)]
    return compare([_twice(answer) for answer in expected], found, TOLERANCE)


def _answer(arrays: dict[str, Any], i: int, texts: list[str]) -> Answer:
    mine = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{i}.")}
    return Answer(texts, mine.pop("ids"), mine.pop("mask"), mine)


def _twice(answer: Answer) -> Answer:
    """What sentence-transformers should give are the vectors once more."""
    return replace(answer, numbers=answer.numbers | {"sentence-transformers": answer.numbers["vectors"]})


def _config(trained: TrainedText) -> dict[str, Any]:
    """The architecture as ours, and once more under the names that tools of transformers look for."""
    encoder = trained.encoder
    return {
        "model_type": "kxbatch-text-encoder",
        "architectures": ["KxbatchModel"],
        "auto_map": {
            "AutoConfig": f"{_CONFIGURATION}.KxbatchConfig",
            "AutoModel": f"{_MODEL}.KxbatchModel",
            "AutoModelForMaskedLM": f"{_MODEL}.KxbatchForMaskedLM",
        },
        "dtype": "float32",
        "vocab_size": encoder.vocabulary,
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads if encoder.block == "attention" else 1,
        **{f"{role}_token_id": trained.special[role] for role in ROLES},
        "pooling": trained.pooling,
        "text_encoder": encoder.to_json(),
    }


def _write_sentence_files(target: Path, trained: TrainedText) -> None:
    """What sentence-transformers reads: its own pooling where it has ours, else the model's `pooler_output`."""
    modules = [_module(0, "", "Transformer")]
    limits: dict[str, Any] = {"max_seq_length": trained.max_length, "do_lower_case": False}
    if trained.pooling in _POOLINGS:
        modules.append(_module(1, "1_Pooling", "Pooling"))
        (target / "1_Pooling").mkdir()
        facts = {f"pooling_mode_{mode}": mode.startswith(_POOLINGS[trained.pooling]) for mode in _MODES}
        _write_json(target / "1_Pooling" / CONFIG, {"word_embedding_dimension": trained.encoder.dim, **facts})
    else:
        forward = {"method": "forward", "method_output_name": "pooler_output"}
        limits |= {"modality_config": {"text": forward}, "module_output_name": "sentence_embedding"}
    _write_json(target / "modules.json", modules)
    _write_json(target / "sentence_bert_config.json", limits)


def _module(number: int, path: str, kind: str) -> dict[str, Any]:
    return {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")

"""Loads a converted folder where kxbatch cannot be imported. A script, for a process of its own.

    python -P without_kxbatch.py FOLDER SCRATCH

SCRATCH/batches.json holds lists of texts; what the models make of them goes to SCRATCH/found.safetensors.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


class _Blocked:
    """An importer that is asked first and says no."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name.partition(".")[0] == "kxbatch":
            raise ImportError(f"{name}: a converted model must do without it")


def main(folder: str, scratch: Path) -> None:
    """Compute and write."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    batches = json.loads((scratch / "batches.json").read_text("utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    head = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
    sentences = _sentence_model(folder)
    found: dict[str, Any] = {}
    for i, texts in enumerate(batches):
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            output, scores = model(**batch), head(**batch)
        found |= {f"{i}.ids": batch["input_ids"], f"{i}.mask": batch["attention_mask"]}
        found |= {f"{i}.states": output.last_hidden_state, f"{i}.vectors": output.pooler_output}
        found[f"{i}.logits"] = scores.logits[:, 0]
        if sentences is not None:
            found[f"{i}.sentence-transformers"] = sentences.encode(
                texts, convert_to_tensor=True, show_progress_bar=False
            )
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, scratch / "found.safetensors")


def _sentence_model(folder: str) -> Any:
    """None where sentence-transformers is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu", trust_remote_code=True)


if __name__ == "__main__":
    sys.meta_path.insert(0, _Blocked())
    main(sys.argv[1], Path(sys.argv[2]))

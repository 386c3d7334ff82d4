"""The same texts through an encoder and through what it was converted to: how far are the numbers apart?

Shapes: B texts, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kxbatch.errors import FatalError
from kxbatch.models.encoders.tokens import Tokens
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder import embed
from kxbatch.models.trained_text import TrainedText, load_weights

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BATCH = 8
_TEXTS = (
    "The cat sat on the mat.", "Whitening makes sentence vectors isotropic.", "café naïve Ünïcödé", "a", "", " ", "\n\t \n",
    "白化可以改善句向量的各向同性。", "门控注意力单元", "ベクトルの白色化", "문장 벡터의 백색화",
    "Отбеливание векторов предложений", "Λεύκανση διανυσμάτων", "تبييض المتجهات", "הלבנת וקטורים",
    "वाक्य सदिशों का श्वेतीकरण", "การทำให้เวกเตอร์ขาว", "ვექტორების გათეთრება",
    "Vektorların beyazlatılması: İstanbul'da ılık bir gün", "Làm trắng các véc-tơ câu", "🙂🙃 emoji, 👩\u200d👩\u200d👧 joined",
    "e\u0301 combining, \u00e9 composed", "[CLS] special tokens [MASK] as text [SEP] [PAD]", "3.14159 2,718 0x1F 10^-5 %",
    "def f(x): return x ** 2  # code", "Ω≈ç√∫˜µ≤≥÷", "UPPER lower MiXeD", "tabs\tand\nlines\r\nin one",
    "zero\u200bwidth \ufeff marks \x00 and nulls", "x" * 300, "word " * 40, "问" * 50,
)  # fmt: skip
_LONG = ("neighbours of vectors ", "向量的近邻。")  # repeated until they are longer than any limit


@dataclass(frozen=True)
class Answer:
    """What an encoder makes of a batch of texts.

    Attributes:
        texts: B of them.
        ids: token ids [B, L].
        mask: 1 for tokens, 0 for padding [B, L].
        numbers: fp32: `states` of the last layer [B, L, D], `vectors` by the encoder's own pooling [B, D], `logits` of the first
            token of each text [B, V]; what a format does not give is absent.
    """

    texts: list[str]
    ids: Ints
    mask: Ints
    numbers: dict[str, Floats]


@dataclass(frozen=True)
class Parity:
    """How far the numbers are apart.

    Attributes:
        texts: that were compared.
        differences: largest difference of two numbers, by the names of `Answer.numbers`. States have length sqrt(D).
        tolerance: what each may be at most.
    """

    texts: int
    differences: dict[str, float]
    tolerance: float


def batches(max_length: int) -> list[list[str]]:
    """Texts of several scripts and lengths; those beyond `max_length` tokens, and one alone."""
    mixed = [list(_TEXTS[i : i + _BATCH]) for i in range(0, len(_TEXTS), _BATCH)]
    return [*mixed, *([text * max_length, _TEXTS[0]] for text in _LONG), [_TEXTS[1]]]


def answers(folder: Path) -> list[Answer]:
    """Of a trained text encoder as kxbatch runs it, in fp32 on the CPU."""
    trained = TrainedText.read(folder)
    model = MaskedLm(trained.encoder)
    load_weights(model, folder)
    tokens = Tokens(trained.tokenizer(folder), trained.max_length)
    return [_answer(model.eval(), tokens, trained.pooling, texts) for texts in batches(trained.max_length)]


def _answer(model: MaskedLm, tokens: Tokens, pooling: str, texts: list[str]) -> Answer:
    ids_BL, mask_BL = tokens.tokenize(texts).padded(np.arange(len(texts)), tokens.pad_id)
    mask = Mask.padding(torch.from_numpy(mask_BL).bool())
    with torch.inference_mode():
        first_BLD, last_BLD = model.encoder.states(torch.from_numpy(ids_BL), mask)
        logits_BV = model.encoder.embedding(last_BLD[:, 0], logits=True)
        vectors_BD = embed(last_BLD, mask, pooling, first_BLD)
    numbers = {"states": last_BLD, "vectors": vectors_BD, "logits": logits_BV}
    return Answer(texts, ids_BL, mask_BL, {name: tensor.numpy() for name, tensor in numbers.items()})


def compare(expected: Sequence[Answer], found: Sequence[Answer], tolerance: float) -> Parity:
    """Compare all that was found; states of padding have no meaning and are not looked at.

    Raises:
        FatalError: tokens differ, or numbers by more than the tolerance.
    """
    pairs = list(zip(expected, found, strict=True))
    for a, b in pairs:
        if not (np.array_equal(a.ids, b.ids) and np.array_equal(a.mask, b.mask)):
            raise FatalError(f"the converted tokenizer makes other tokens of one of {[text[:40] for text in a.texts]}")
    names = list(found[0].numbers)
    differences = {name: float(np.max([_largest(a, b, name) for a, b in pairs])) for name in names}
    for name, difference in differences.items():
        if not difference <= tolerance:  # also where it is no number
            raise FatalError(
                f"{name} of the converted model differ by up to {difference:.3g} from the encoder's; at most {tolerance:g} "
                "is expected. It was thrown away; nothing was written"
            )
    return Parity(sum(len(a.texts) for a, _ in pairs), differences, tolerance)


def _largest(expected: Answer, found: Answer, name: str) -> float:
    """Infinite where the shapes are not the same, no number where one of them has any such."""
    a, b = expected.numbers[name], found.numbers[name]
    if a.shape != b.shape:
        return float("inf")
    rows = expected.mask > 0 if name == "states" else np.ones(len(a), bool)
    return float(np.abs(a[rows] - b[rows]).max())

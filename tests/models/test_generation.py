"""How samples become batches: whole ones, at fixed places, whoever asks; and values that come back from a model's units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from kxbatch.data.images import decode, encode
from kxbatch.models.generation import Form, Made, form_of, make_rows
from kxbatch.models.vae_inputs import Inputs


class Counting:
    """Samples that say their number and their place in the batch; remembers what it was asked for."""

    form, device = Form(2), "cpu"

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def generate(self, sample_ids: Sequence[int]) -> Made:
        self.asked.append(list(sample_ids))
        values = np.stack([np.array(sample_ids), np.arange(len(sample_ids))], axis=1).astype(np.float32)
        return Made(values, {"word": np.array([f"n{number}" for number in sample_ids], object)})


def test_batches_are_whole_and_begin_at_multiples_of_their_size() -> None:
    generator = Counting()
    made = make_rows(generator, np.array([5, 6, 7, 8, 20]), 4, 1)
    assert made.columns["word"].tolist() == ["n5", "n6", "n7", "n8", "n20"]
    np.testing.assert_array_equal(made.values, [[5, 1], [6, 2], [7, 3], [8, 0], [20, 0]])
    assert generator.asked == [[4, 5, 6, 7], [8, 9, 10, 11], [20, 21, 22, 23]]


def test_order_and_threads_change_nothing() -> None:
    numbers = np.random.default_rng(0).permutation(50)
    one, four = (make_rows(Counting(), numbers, 8, threads) for threads in (1, 4))
    np.testing.assert_array_equal(one.values, four.values)
    np.testing.assert_array_equal(one.values[:, 0], numbers)
    assert one.columns["word"].tolist() == [f"n{number}" for number in numbers]


@pytest.mark.parametrize("transform", ["none", "standardize", "asinh"])
def test_units_lead_back_to_values(transform: Literal["none", "standardize", "asinh"]) -> None:
    values = np.random.default_rng(0).standard_normal((50, 3)) * [1, 100, 0.01] + [0, 1000, -3]
    inputs = Inputs(np.array([0.0, 990.0, -3.0]), np.array([1.0, 90.0, 0.02]), transform)
    np.testing.assert_allclose(inputs.inverse(inputs(values)), values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_every_pixel(channels: int) -> None:
    pixels: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    found = decode(encode(pixels))
    assert found is not None
    np.testing.assert_array_equal(found, pixels)


def test_images_are_what_a_png_can_hold() -> None:
    assert form_of(12, (2, 2, 3), 256).is_image
    assert not form_of(12, (2, 2, 3), None).is_image
    assert not form_of(8, (2, 2, 2), 256).is_image
    assert not form_of(12, None, 256).is_image

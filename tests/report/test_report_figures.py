"""Figures and wording of the report: what is drawn agrees with the definitions, at every scale."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.report import drawing, figures, wording
from kxbatch.report.record import Histogram, Measures, Spectrum, Unit

COUNTS = st.lists(st.integers(0, 400), min_size=1, max_size=60)


def histogram(counts: list[int]) -> Histogram:
    values, rows = np.unique(counts, return_counts=True)
    return Histogram(k_occurrence=tuple(values.tolist()), rows=tuple(rows.tolist()))


def texts_of(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@given(COUNTS)
def test_area_of_the_lorenz_curve_is_the_gini_index_by_its_definition(counts: list[int]) -> None:
    x = np.asarray(counts, dtype=float)
    rows, slots = figures.lorenz_curve(histogram(counts))
    assert (rows[0], slots[0], rows[-1]) == (0.0, 0.0, 1.0)
    assert np.all(np.diff(rows) > 0)
    assert np.all(slots <= rows + 1e-12)  # least found first: never above the diagonal
    if x.sum() > 0:
        gini = np.abs(x[:, None] - x[None, :]).sum() / (2 * len(x) ** 2 * x.mean())
        assert 1 - 2 * np.trapezoid(slots, rows) == pytest.approx(gini, abs=1e-9)


@given(COUNTS.map(lambda counts: [count % 7 for count in counts]))
def test_small_counts_have_a_bin_each(counts: list[int]) -> None:
    bins = figures.widening_bins(histogram(counts))
    values, rows = np.unique(counts, return_counts=True)
    np.testing.assert_allclose(bins.middle, values)
    np.testing.assert_allclose(bins.density, rows)


@given(st.integers(1, 3000), st.integers(1, 50))
def test_an_even_histogram_has_an_even_density(most: int, rows: int) -> None:
    even = Histogram(k_occurrence=tuple(range(most + 1)), rows=(rows,) * (most + 1))
    bins = figures.widening_bins(even)
    np.testing.assert_allclose(bins.density[:-1], rows)  # the last bin may reach beyond the data
    assert bins.density[-1] <= rows
    assert np.all(np.diff(bins.middle) > 0)
    assert bins.middle[0] == 0


@given(st.floats(1e-30, 1e30), st.floats(1.0, 1e20))
def test_logarithmic_ticks_are_few_ascending_and_enclose_the_data(low: float, ratio: float) -> None:
    ticks = drawing.logarithmic_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 8
    assert all(after > before for before, after in itertools.pairwise(ticks))
    assert ticks[0] <= low * (1 + 1e-9)
    assert ticks[-1] >= low * ratio * (1 - 1e-9)


@given(st.integers(-30, 30), st.sampled_from([1.0, 2.0, 5.0]))
def test_a_power_label_reads_back_as_its_value(exponent: int, factor: float) -> None:
    plain = drawing.power_label(factor * 10.0**exponent)
    lowered = plain.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    match = re.fullmatch(r"(?:(\d)·)?10(-?\d+)", lowered) if "10" in plain and plain != lowered else None
    read = float(match[1] or 1) * 10.0 ** int(match[2]) if match else float(plain)
    assert math.isclose(read, factor * 10.0**exponent, rel_tol=1e-9)


@given(st.floats(0.001, 1e9) | st.floats(-1e9, -0.001) | st.integers(-(10**9), 10**9))
def test_a_written_number_reads_back_to_three_digits(value: float) -> None:
    read = float(wording.number(value).replace(wording.GAP, "").replace("−", "-"))
    assert read == pytest.approx(value, rel=0.006, abs=0.0)
    if isinstance(value, int):
        assert read == value


def test_what_is_undefined_is_a_dash_and_what_is_tiny_says_so() -> None:
    assert wording.number(None) == wording.percent(None) == wording.duration(None) == wording.score(None) == "–"
    assert wording.number(0.0) == "0"
    assert wording.number(-6.4e-6).startswith("≈")


@given(st.floats(0, 1e6))
def test_a_duration_reads_back_to_a_second_or_a_minute(seconds: float) -> None:
    parts = re.findall(r"([\d.≈]+)\u202f?([hmins]+)", wording.duration(seconds).replace("≈\u202f", ""))
    unit = {"s": 1, "min": 60, "h": 3600}
    read = sum(float(number) * unit[name] for number, name in parts)
    assert read == pytest.approx(seconds, abs=60 if seconds >= 3600 else 1)


@given(st.text(max_size=700))
def test_an_excerpt_is_one_short_line_without_control_characters(text: str) -> None:
    line = wording.excerpt(text)
    assert len(line) <= wording.TEXT_CHARACTERS
    assert not wording.CONTROL.search(line)
    assert "\n" not in line
    assert line.endswith("…") or line.split() == wording.CONTROL.sub(" ", text).split()


@settings(max_examples=15, deadline=None)
@given(COUNTS, COUNTS)
def test_graphs_of_any_shape_can_be_drawn(before: list[int], after: list[int]) -> None:
    graphs = [Measures(n=max(len(counts), 6), k=5, histogram=histogram(counts)) for counts in (before, after)]
    for svg in (figures.k_occurrence(graphs), figures.lorenz(graphs), figures.lorenz(graphs[:1])):
        assert svg.startswith("<svg viewBox=")
        assert svg.endswith("</svg>")
        assert "#0" not in svg  # every sentinel colour has become a variable
        assert "nan" not in svg.lower()
    assert "mean 5" in texts_of(figures.k_occurrence(graphs))


@pytest.mark.parametrize("values", [[1.0], [2.5, 2.5], [3.0, 1e-9, 0.0, -1e-17], [1e6 / (i + 1) for i in range(768)]])
def test_any_spectrum_can_be_drawn(values: list[float]) -> None:
    shares = np.cumsum(np.abs(values)) / np.abs(values).sum()
    record = Spectrum(dim=max(1, len(values) // 2), eigenvalues=tuple(values), explained_share=tuple(shares))
    assert "eigenvalue" in texts_of(figures.spectrum("s", record))
    kept = wording.percent(float(shares[record.dim - 1]))
    assert kept in texts_of(figures.explained("e", record))


def test_small_eigenvalues_keep_their_tick_labels_apart() -> None:
    record = Spectrum(dim=2, eigenvalues=(0.02, 0.004, 0.001))
    numbers = [text for text in texts_of(figures.spectrum("s", record)) if text.startswith("0.0")]
    assert sorted(map(float, numbers)) == [0.001, 0.002, 0.005, 0.01, 0.02]


@pytest.mark.parametrize("count", [1, 16, 136, 5000])
def test_unit_times_draw_every_unit_or_say_how_many_they_leave_out(count: int) -> None:
    units = [Unit(seconds=1.0 + at % 7, reused=at % 3 == 0) for at in range(count)]
    svg = figures.unit_seconds("u", units)
    drawn = svg.count("<use ") - len(re.findall(r"<use [^>]*var\(--line\)", svg))
    assert drawn == len(range(0, count, figures.stride(count)))
    assert drawn <= figures.MOST_POINTS


def test_isotropy_shows_each_value_in_words() -> None:
    shown = texts_of(figures.isotropy([0.613, -0.02]))
    assert {"before", "after", "0.613", "−0.02"} <= set(shown)
    assert "before" not in texts_of(figures.isotropy([0.613]))


def test_an_svg_is_the_same_whatever_was_drawn_before() -> None:
    record = Spectrum(dim=1, eigenvalues=(3.0, 1.0, 0.5))
    first = figures.spectrum("s", record)
    figures.isotropy([0.1, 0.2])
    assert figures.spectrum("s", record) == first

"""Schedules against 50-digit arithmetic, sub-sequences, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import make_schedule, spaced_times, time_pairs

KINDS = ["linear", "cosine", "su"]


def exact_b2(kind: str, t: int, steps: int) -> mpf:
    """The formulas of the papers."""
    if kind == "linear":
        return mpf("1e-4") + (mpf("0.02") - mpf("1e-4")) * (t - 1) / (steps - 1)
    if kind == "su":
        return mpf("0.02") * t / steps

    def left(time: int) -> mpf:
        return mp.cos((mpf(time) / steps + mpf("0.008")) / mpf("1.008") * mp.pi / 2) ** 2

    return min(1 - left(t) / left(t - 1), mpf("0.999"))


@pytest.mark.parametrize("kind", KINDS)
def test_tables_agree_with_50_digits(kind: str) -> None:
    schedule = make_schedule(kind, 1000)
    with mp.workdps(50):
        A2 = mpf(1)
        for t in range(1, 1001):
            b2 = exact_b2(kind, t, 1000)
            A2 *= 1 - b2
            # cos^2 near a quarter turn and 1 - f(t) / f(t - 1) lose digits of their own: hence 1e-11
            assert schedule.b[t] == pytest.approx(float(mp.sqrt(b2)), rel=1e-11)
            assert schedule.a[t] == pytest.approx(float(mp.sqrt(1 - b2)), rel=1e-11)
            assert schedule.A[t] == pytest.approx(float(mp.sqrt(A2)), rel=1e-10)
            assert schedule.B[t] == pytest.approx(float(mp.sqrt(1 - A2)), rel=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_begin_at_the_data_and_cannot_be_changed(kind: str) -> None:
    schedule = make_schedule(kind, 50)
    assert (schedule.steps, schedule.A[0], schedule.B[0], schedule.a[0], schedule.b[0]) == (50, 1, 0, 1, 0)
    assert schedule.snr[0] == np.inf
    assert (np.diff(schedule.snr) < 0).all()
    assert schedule.snr[1:] == pytest.approx(schedule.A[1:] ** 2 / schedule.B[1:] ** 2)
    with pytest.raises(ValueError, match="read-only"):
        schedule.A[1] = 0.5


def test_no_step_of_the_cosine_schedule_takes_all() -> None:
    schedule = make_schedule("cosine", 1000)
    assert schedule.b[1000] ** 2 == pytest.approx(0.999)
    assert schedule.b[999] ** 2 < 0.999


@settings(deadline=None, max_examples=50)
@given(kind=st.sampled_from(KINDS), steps=st.integers(2, 200), data=st.data())
def test_a_leap_is_the_steps_taken_together(kind: str, steps: int, data: st.DataObject) -> None:
    schedule = make_schedule(kind, steps)
    t = data.draw(st.integers(1, steps))
    s = data.draw(st.integers(0, t - 1))
    a, b2 = schedule.between(t, s)
    assert a == pytest.approx(np.prod(schedule.a[s + 1 : t + 1]), rel=1e-12)
    noise = 0.0
    for step in range(s + 1, t + 1):
        noise = schedule.a[step] ** 2 * noise + schedule.b[step] ** 2
    assert b2 == pytest.approx(noise, rel=1e-10)
    assert a**2 + b2 == pytest.approx(1.0, rel=1e-14)


def test_another_schedule_is_refused_by_name() -> None:
    mine = make_schedule("linear", 1000)
    mine.require(make_schedule("linear", 1000, last=0.02).identity, "checkpoint 'x'")
    others = [
        make_schedule("su", 1000),
        make_schedule("linear", 999),
        make_schedule("linear", 1000, last=0.0200001),
        make_schedule("linear", 1000, first=2e-4),
    ]
    assert len({other.identity for other in others}) == 4
    for other in others:
        with pytest.raises(ConfigError, match=r"checkpoint 'x'.*T=\d+.*linear\(T=1000, first=0\.0001, last=0\.02\)"):
            mine.require(other.identity, "checkpoint 'x'")


@pytest.mark.parametrize(
    ("kind", "steps", "parameters", "words"),
    [
        ("cosin", 10, {}, "no noise schedule 'cosin'; did you mean 'cosine'"),
        ("linear", 10, {"lst": 0.1}, "no parameter 'lst'; did you mean 'last'"),
        ("su", 10, {"first": 0.1}, "has no parameter 'first'"),
        ("linear", 0, {}, "at least 1 step"),
        ("linear", 10, {"last": 1.0}, "not between 0 and 1"),
        ("linear", 10, {"first": 0.0}, "not between 0 and 1"),
        ("su", 10, {"last": float("nan")}, "not between 0 and 1"),
        ("cosine", 10, {"most": 1.0}, "not between 0 and 1"),
    ],
)
def test_what_gives_no_schedule_is_refused(kind: str, steps: int, parameters: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_schedule(kind, steps, **parameters)


@settings(deadline=None)
@given(steps=st.integers(1, 1000), data=st.data(), spacing=st.sampled_from(["trailing", "leading"]))
def test_spaced_times_are_different_and_even(steps: int, data: st.DataObject, spacing: str) -> None:
    kept = data.draw(st.integers(1, steps))
    times = spaced_times(steps, kept, spacing)  # type: ignore[arg-type]
    assert len(times) == kept
    assert times[-1] == steps if spacing == "trailing" else times[0] == 1
    gaps = np.diff([0, *times] if spacing == "trailing" else [*times, steps + 1])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
    pairs = time_pairs(times, steps)
    assert [t for t, _ in pairs] == times[::-1]
    assert all(earlier == s for (_, s), (earlier, _) in itertools.pairwise(pairs))
    assert pairs[-1][1] == 0


def test_the_times_of_the_first_implementations() -> None:
    assert spaced_times(1000, 10, "leading") == list(range(1, 1000, 100))
    assert spaced_times(1000, 10) == list(range(100, 1001, 100))
    assert spaced_times(1000, 1000) == spaced_times(1000, 1000, "leading") == list(range(1, 1001))


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([], "no times"),
        ([1, 5, 5, 9], "time 5 is named twice"),
        ([1, 9, 5], "5 stands after 9"),
        ([9, 5, 1], "ascending"),
        ([5, 11], "time 11 .* 1 to 10"),
        ([0, 5], "time 0 .* 1 to 10"),
        ([-1, 5], "time -1 "),
    ],
)
def test_times_that_cannot_be_stepped_through_are_refused(times: list[int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        time_pairs(times, 10)


@pytest.mark.parametrize("kept", [0, 11])
def test_more_times_than_there_are_are_refused(kept: int) -> None:
    with pytest.raises(ConfigError, match=f"{kept} of 10 steps"):
        spaced_times(10, kept)

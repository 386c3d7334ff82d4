"""Receipts and the lease, damaged: a receipt counts as none or is exactly what was written; a lease is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz.guard import verb
from fuzz.mutations import VALUES, damaged, json_bytes, restructured
from fuzz.output_case import JOB, READERS, Case
from fuzz.profile import fuzzed
from fuzz.targets import RECEIPT, receipt
from hypothesis import given
from hypothesis import strategies as st
from support import sealed

RECEIPTS = ("embed/_kxbatch/receipts/map/part-00000.json", "hubness/_kxbatch/receipts/lists/block-00000.json")
LEASE = "_kxbatch/lease.json"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("receipts"))


def test_a_good_receipt_round_trips() -> None:
    assert receipt(sealed(RECEIPT).encode()) is not None


@pytest.mark.parametrize("key", sorted(RECEIPT))
def test_values_of_other_types_make_no_receipt(key: str) -> None:
    good = RECEIPT[key]
    numeric = isinstance(good, int | float)
    for value in VALUES:
        fits = (
            isinstance(value, str | type(good)) if isinstance(good, str) else numeric and isinstance(value, int | float)
        )
        if not fits and not (value == {} == type(good)()):  # no counters are counters, too
            assert receipt(sealed(RECEIPT | {key: value}).encode()) is None, (key, value)


@pytest.mark.parametrize("file", ["../../x", "/etc/passwd", "..", "", "a/../../b"])
def test_a_file_outside_makes_no_receipt(file: str) -> None:
    assert receipt(sealed(RECEIPT | {"file": file}).encode()) is None


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_run_mends_damaged_receipts(case: Case, name: str) -> None:
    raw = case.read(name)

    @fuzzed(10)
    @given(st.one_of(damaged([raw]), restructured(json.loads(raw)).map(json_bytes)), st.sampled_from(READERS))
    def check(data: bytes, reader: tuple[str, ...]) -> None:
        case.check(name, data, reader)

    check()


def test_a_damaged_lease(case: Case) -> None:
    raw = case.read(LEASE)

    @fuzzed(15)
    @given(st.one_of(damaged([raw]), restructured(json.loads(raw)).map(json_bytes)), st.sampled_from(READERS[:4]))
    def check(data: bytes, reader: tuple[str, ...]) -> None:
        case.check(LEASE, data, reader)

    check()


def test_a_folder_in_the_place_of_a_temporary_file(case: Case) -> None:
    """Whoever made it: a run goes on, and the folder stays."""
    with case.here():
        case.restore()
        Path("out/audit/.tmp-somebody").mkdir()

        assert verb("run", JOB, "--no-report", "-q")[0] == 0

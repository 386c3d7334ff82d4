"""Every JSON document of an output, damaged: verbs end in words, a run mends or says what to remove, and no row changes."""

from __future__ import annotations

import json

import pytest
from fuzz.mutations import damaged, json_bytes, restructured
from fuzz.output_case import DOCUMENTS, READERS, Case
from fuzz.profile import fuzzed
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("documents"))


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_damaged_bytes(case: Case, document: str) -> None:
    name = DOCUMENTS[document]

    @fuzzed(5)
    @given(damaged([case.read(name)]), st.sampled_from(READERS))
    def check(data: bytes, reader: tuple[str, ...]) -> None:
        case.check(name, data, reader)

    check()


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_changed_structure(case: Case, document: str) -> None:
    name = DOCUMENTS[document]

    @fuzzed(5)
    @given(restructured(json.loads(case.read(name))), st.sampled_from(READERS))
    def check(value: object, reader: tuple[str, ...]) -> None:
        case.check(name, json_bytes(value), reader)

    check()

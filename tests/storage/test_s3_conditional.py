"""Conditional writes of a folder when answers get lost: nobody is told that it won what somebody else won."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from storage.faulty_proxy import FaultyProxy, Plan

from kxbatch.data.storage import Folder, output_folder

WRITERS = 6
LOST_ANSWERS = Plan(share=0.4, kinds=("reset_after", "reset_before", "slow_down"), methods=("PUT",), in_a_row=2)


@pytest.fixture
def folder(proxy: FaultyProxy, bucket: str) -> Folder:
    proxy.plan = LOST_ANSWERS
    return output_folder(f"s3://{bucket}/out", Path.cwd())


def test_one_of_many_that_create_a_file_is_told_so(folder: Folder, proxy: FaultyProxy) -> None:
    for round_ in range(4):
        name, together = f"lease-{round_}.json", threading.Barrier(WRITERS)

        def create(writer: int, name: str = name, together: threading.Barrier = together) -> str | None:
            together.wait()
            return folder.replace(name, b"writer %d" % writer, None)

        with ThreadPoolExecutor(WRITERS) as pool:
            versions = list(pool.map(create, range(WRITERS)))
        (winner,) = [writer for writer, version in enumerate(versions) if version is not None]
        assert folder.read_version(name) == (b"writer %d" % winner, versions[winner])
    assert proxy.counts["reset_after"] > 0


def test_a_version_is_replaced_by_one_writer_at_most(folder: Folder, s3: Any, proxy: FaultyProxy) -> None:
    folder.replace("lease.json", b"start", None)
    replaced: list[str] = []

    def write(writer: int) -> None:
        for turn in range(5):
            version = folder.read_version("lease.json")[1]
            if folder.replace("lease.json", b"writer %d turn %d" % (writer, turn), version) is not None:
                replaced.append(version)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    assert len(replaced) >= 5, "somebody gets through"
    assert max(Counter(replaced).values()) == 1
    assert proxy.counts["reset_after"] > 0

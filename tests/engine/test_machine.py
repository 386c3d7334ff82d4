"""Findings about this machine, and what is said about machines that are not well."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kxbatch.engine import machine
from kxbatch.engine.machine import blas_finding, cpu_quota, examine


def test_this_machine_runs_this_very_project() -> None:
    found = {finding.name: finding for finding in examine()}
    assert [finding for finding in found.values() if finding.level == "fail"] == []
    for package in ("numpy", "pyarrow", "torch", "ray"):
        assert importlib.metadata.version(package) in found[package].fact
    assert {"python", "cpus", "memory", "disk", "numba cache", "packaged encoder", "blas", "cpu features"} <= set(found)
    assert str(os.cpu_count()) in found["cpus"].fact
    assert all(finding.mend for finding in found.values() if finding.level != "ok")


def test_packages_absent_or_too_old() -> None:
    needed = machine._package(Requirement("no-such-package-anywhere>=1"), "")
    assert (needed.level, needed.fact) == ("fail", "absent")
    old = machine._package(Requirement("numpy>=999"), "")
    assert (old.level, old.mend) == ("fail", "pip install 'numpy>=999'")
    optional = machine._package(Requirement("no-such-package-anywhere"), "train")
    assert (optional.level, optional.mend) == ("warn", "pip install 'kxbatch[train]'")


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_cpus_that_the_cgroup_allows(tmp_path: Path, files: dict[str, str], cpus: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cpus


def test_blas_cores() -> None:
    assert blas_finding(["SkylakeX"], {}).level == "ok"
    forced = blas_finding(["Haswell"], {"OPENBLAS_CORETYPE": "Haswell"})
    assert (forced.level, "unset OPENBLAS_CORETYPE" in forced.mend) == ("warn", True)
    old = blas_finding(["SkylakeX", "Prescott"], {})
    assert (old.level, "OPENBLAS_CORETYPE=SkylakeX" in old.mend) == ("warn", True)


def test_a_proxy_s_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:8080")
    [finding] = machine._hub()
    assert "proxy:8080" in finding.fact
    assert "secret" not in finding.fact


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    [finding] = machine._numba_cache()
    assert (finding.level, "NUMBA_CACHE_DIR" in finding.mend) == ("warn", True)


def test_a_cluster_that_is_not_there() -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        [finding] = machine._ray(address)
        assert (finding.level, "refused" in finding.fact) == ("fail", True)
        assert "RAY_AUTH_MODE" in finding.mend

"""Nodes with a network, a file system and a host name of their own, and one folder that all of them see."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from nodes.rig import APART, RayNetwork, Workplace, receipts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """The folder that all machines see; prints the table of all scenarios at the end."""
    place = Workplace(tmp_path_factory.mktemp("shared"))
    place.run_undisturbed()
    yield place
    print(f"\n{place.table()}")


@pytest.fixture(scope="module")
def network(shared: Workplace) -> Iterator[RayNetwork]:
    """Three machines; a test that cuts one off comes last."""
    trial = "ip link add bridge type bridge && unshare -nmpu --fork --mount-proc mount -t tmpfs none /mnt"
    try:
        tried = subprocess.run([*APART, "sh", "-ec", trial], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"machines in miniature need util-linux and iproute2: {error}")
    if tried.returncode:
        pytest.skip(f"this system permits no name spaces: {tried.stderr.strip()}")
    machines = RayNetwork(shared.folder, 3)
    yield machines
    machines.end()


def test_three_machines_write_the_bytes_of_one_process(shared: Workplace, network: RayNetwork) -> None:
    shared.hold(after=0)
    driver, output = shared.start_in(network, "undisturbed")
    shared.await_calls(driver, "node1", "node2", "node3")
    shared.release()
    assert shared.finish(driver, output, "undisturbed", "") == 0
    assert {receipt["host"] for receipt in receipts(output)} == {"node1", "node2", "node3"}


def test_an_encoder_that_lies_on_one_machine_only_is_named(shared: Workplace, network: RayNetwork) -> None:
    shared.write_job("local", network.address, "/mnt/shared")
    copy = "cp -r /mnt/shared/local.toml /mnt/shared/*.py /mnt/own"
    subprocess.run([*network.enter(1), "sh", "-ec", copy], check=True)
    driver = network.driver(shared.folder, "local", "/mnt/own")
    status, facts = driver.result()
    assert (status, facts["status"]) == (2, "stopped")
    assert "no module 'journal' can be imported here" in facts["message"]
    assert "(worker node" in facts["message"]
    assert "Traceback" not in driver.complaints


def test_an_output_that_not_all_machines_see_is_named(shared: Workplace, network: RayNetwork) -> None:
    job = shared.folder / "unshared.toml"
    shared.write_job("unshared", network.address, "/mnt/shared")
    job.write_text(job.read_text().replace("/mnt/shared/out", "/mnt/own/out"))
    driver = network.driver(shared.folder, "unshared")
    status, facts = driver.result()
    assert (status, facts["status"]) == (2, "stopped")
    assert "/mnt/own/out/unshared is not the same folder on node" in facts["message"]
    assert "Traceback" not in driver.complaints


def test_input_that_not_all_machines_see_is_named(shared: Workplace, network: RayNetwork) -> None:
    job = shared.folder / "unseen.toml"
    shared.write_job("unseen", network.address, "/mnt/shared")
    job.write_text(job.read_text().replace("/mnt/shared/data", "/mnt/own/data"))
    subprocess.run([*network.enter(1), "cp", "-rp", "/mnt/shared/data", "/mnt/own"], check=True)
    driver = network.driver(shared.folder, "unseen")
    status, facts = driver.result()
    assert (status, facts["status"], facts["failures"]) == (2, "stopped", facts["failures"][:1]), "no shard was parked"
    assert "gone since it was listed" in facts["message"]
    assert "so it is on worker node" in facts["message"]
    assert "Traceback" not in driver.complaints


def test_a_machine_that_is_cut_off_publishes_nothing_later(shared: Workplace, network: RayNetwork) -> None:
    shared.hold(after=3)
    driver, output = shared.start_in(network, "cut", attempts=1)
    shared.await_calls(driver, "node1", "node2", "node3")
    shared.hold_on("node3")
    network.tell("cut 3")
    shared.release()
    assert shared.finish(driver, output, "the network of a machine is cut", "1 cut off") == 0
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    shared.release_on("node3", lambda: not network.has_workers(3))
    time.sleep(3)  # what it would publish would be there within milliseconds
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before

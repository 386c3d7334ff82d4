"""Several nodes: the bytes of one process, whoever comes and goes in the middle of a run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from nodes.rig import RayNodes, Workplace, receipts, until

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("KXBATCH_NODES_ROUNDS", "0"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A corpus, the telling encoder, and what one process makes of them; prints the table of all scenarios at the end."""
    place = Workplace(tmp_path_factory.mktemp("nodes"))
    place.run_undisturbed()
    yield place
    print(f"\n{place.table()}")


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """Ray's sockets want short paths."""
    folder = Path(tempfile.mkdtemp(prefix="kxn"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared(short_folder: Path) -> Iterator[RayNodes]:
    nodes = RayNodes(short_folder, 1, 1, 1)
    yield nodes
    nodes.end()


@pytest.fixture
def cluster(shared: RayNodes) -> RayNodes:
    """Three nodes with a CPU each, whatever the test before did to them."""
    while len(shared.nodes) < 3:
        shared.tell("add 1")
    return shared


def test_three_nodes_write_the_bytes_of_one_process(workplace: Workplace, cluster: RayNodes) -> None:
    workplace.hold(after=0)
    driver, output = workplace.start("undisturbed", cluster.address)
    workplace.await_calls(driver, *cluster.nodes)
    workplace.release()
    assert workplace.finish(driver, output, "undisturbed", "") == 0
    assert set(cluster.nodes) == workplace.nodes_of(output), "every node did shards"


def test_a_lost_node_costs_no_shard_an_attempt(workplace: Workplace, cluster: RayNodes) -> None:
    workplace.hold(after=3)
    driver, output = workplace.start("lost", cluster.address, attempts=1)
    workplace.await_calls(driver, *cluster.nodes)
    cluster.tell("kill 1")
    workplace.release()
    assert workplace.finish(driver, output, "a node is killed at work", "1 killed") == 0
    assert max(receipt["attempt"] for receipt in receipts(output)) == 2, "told, but not held against the shard"


def test_a_node_that_joins_is_put_to_work(workplace: Workplace, cluster: RayNodes) -> None:
    cluster.tell("kill 1 2")
    workplace.hold(after=1)
    driver, output = workplace.start("joined", cluster.address)
    workplace.await_calls(driver, *cluster.nodes)
    cluster.tell("add 1")
    workplace.await_calls(driver, cluster.nodes[-1])
    workplace.release()
    assert workplace.finish(driver, output, "a node joins", "1 joined") == 0
    assert set(cluster.nodes) == workplace.nodes_of(output)


def test_the_head_alone_ends_the_run(workplace: Workplace, cluster: RayNodes) -> None:
    workplace.hold(after=3)
    driver, output = workplace.start("alone", cluster.address, attempts=1)
    workplace.await_calls(driver, *cluster.nodes)
    cluster.tell("kill 1 2")
    workplace.release()
    assert workplace.finish(driver, output, "all nodes but the head are killed", "2 killed") == 0


def test_without_room_for_a_worker_the_run_ends_with_words(workplace: Workplace, cluster: RayNodes) -> None:
    cluster.tell("add 2")
    workplace.hold(after=2)
    driver, output = workplace.start("roomless", cluster.address, cpus=2, startup_timeout=20)
    workplace.await_calls(driver, cluster.nodes[-1])
    until(lambda: receipts(output), "a shard done")
    cluster.tell(f"kill {len(cluster.nodes) - 1}")
    status, facts = driver.result()
    assert (status, facts["status"]) == (1, "stopped")
    assert "no node can hold a worker with 2 CPUs" in facts["message"]
    assert "resources.startup_timeout" in facts["message"]
    assert "Traceback" not in driver.complaints
    workplace.release()
    again, output = workplace.start("roomless", "")
    assert workplace.finish(again, output, "the only node with room is killed; run again", "1 killed") == 0


def test_a_killed_driver_takes_its_workers_along(workplace: Workplace, cluster: RayNodes) -> None:
    workplace.hold(after=3)
    driver, output = workplace.start("orphans", cluster.address)
    workplace.await_calls(driver, *cluster.nodes)
    until(lambda: len(receipts(output)) == 3, "three shards done")
    orphans = {entry["pid"] for entry in workplace.journal()[-6:]}
    os.kill(driver.process.pid, signal.SIGKILL)
    assert driver.process.wait() == -signal.SIGKILL
    again, output = workplace.start("orphans", cluster.address)
    workplace.release()
    assert workplace.finish(again, output, "the driver is killed; run again", "driver killed") == 0
    assert [receipt["token"] for receipt in receipts(output)].count(1) == 3, "no orphan published"
    until(lambda: not any(psutil.pid_exists(pid) for pid in orphans), "workers of the killed driver gone")


if ROUNDS:

    @pytest.mark.parametrize("seed", range(ROUNDS))
    def test_nodes_killed_and_joined_at_any_moment(workplace: Workplace, cluster: RayNodes, seed: int) -> None:
        draw = random.Random(seed)
        driver, output = workplace.start(f"round{seed}", cluster.address, attempts=1)
        time.sleep(draw.uniform(0, 20))
        cluster.tell(f"kill {draw.choice([1, 2])}")
        time.sleep(draw.uniform(0, 5))
        cluster.tell("add 1")
        assert workplace.finish(driver, output, f"round {seed}", "1 killed, 1 joined") == 0


def test_a_dead_head_ends_the_run_with_words(workplace: Workplace, cluster: RayNodes) -> None:
    """The last one: it leaves no cluster behind."""
    workplace.hold(after=3)
    driver, output = workplace.start("headless", cluster.address)
    workplace.await_calls(driver, *cluster.nodes)
    cluster.tell("kill 0")
    status, facts = driver.result()
    workplace.release()
    assert (status, facts["status"]) == (1, "stopped")
    assert f"the Ray cluster at {cluster.address} is gone" in facts["message"]
    assert "Traceback" not in driver.complaints
    again, output = workplace.start("headless", "")
    assert workplace.finish(again, output, "the head is killed; run again in one process", "head killed") == 0

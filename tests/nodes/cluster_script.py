"""A Ray cluster of several nodes on this machine, driven line by line from standard input; run by the tests of this folder.

It is a process of its own because a driver and the cluster must be able to die apart.

usage: cluster_script.py FOLDER CPUS...        (CPUs of the head, then of every further node; Ray keeps its files in FOLDER)
prints one JSON line when the cluster is up and one after every command: {"address": ..., "nodes": [node id, ...]}
commands: "add CPUS", "kill NUMBER..." (SIGKILL to all processes of these living nodes, 0 being the head), "end"
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER, CPUS = sys.argv[1], [float(word) for word in sys.argv[2:]]
os.environ["RAY_TMPDIR"] = FOLDER  # the address file of this cluster is nobody else's

import psutil  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402


def add(cluster: Cluster, cpus: float) -> Any:
    """A node on the loopback interface."""
    return cluster.add_node(
        num_cpus=cpus, node_ip_address="127.0.0.1", include_dashboard=False, object_store_memory=80 * 2**20
    )


def processes(node: Any) -> list[psutil.Process]:
    """Every process of a node: what Ray started for it, and what those started."""
    found = []
    for infos in node.all_processes.values():
        for info in infos:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(info.process.pid)
                found += [process, *process.children(recursive=True)]
    return found


def kill(cluster: Cluster, node: Any) -> None:
    """Take a node away as a power cut does: all of it at once, without a word."""
    for process in processes(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if node is not cluster.head_node:
        cluster.remove_node(node, allow_graceful=False)


def main() -> None:
    Path(FOLDER, "ray").mkdir(parents=True, exist_ok=True)
    cluster = Cluster()
    nodes = [add(cluster, cpus) for cpus in CPUS]
    address = cluster.address
    while True:
        print(json.dumps({"address": address, "nodes": [node.node_id for node in nodes]}), flush=True)
        command, *numbers = sys.stdin.readline().split() or ["end"]
        if command == "add":
            nodes.append(add(cluster, float(numbers[0])))
        elif command == "kill":
            for node in [nodes[int(number)] for number in numbers]:
                kill(cluster, node)
                nodes.remove(node)
        else:
            break
    for process in [process for node in nodes for process in processes(node)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(0)  # Ray's own clean-up waits for processes that are gone


if __name__ == "__main__":
    main()

"""What the driver knows of the nodes of its Ray cluster: who is there, what fits, whether the cluster still answers.

Ray ends a driver in the middle of whatever it does when the cluster's control service (GCS) is away for a minute. So the
driver looks for itself, with a plain connection, and asks Ray only when somebody is there.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from typing import Any

import ray
from ray._private import ray_constants
from ray.util import get_node_ip_address

from kxbatch.errors import FatalError
from kxbatch.spec.model import Resources

_CLUSTERS = bool(ray_constants.ENABLE_RAY_CLUSTER)  # as Ray takes it from the environment
_OBJECT_STORE = 200 * 2**20  # workers read storage themselves; the object store carries only messages
_LOOK = 2.0  # seconds between two looks at the cluster
_SHUT = 60.0  # seconds for which a node that did not answer holds no workers; by then Ray knows better
_PATIENCE = 20.0  # seconds the control service may be away, to be started again elsewhere; well below Ray's own minute


class Cluster:
    """The nodes as they were at the last look.

    Attributes:
        address: of the control service, host and port.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._nodes: list[dict[str, Any]] = []
        self._seen: dict[str, dict[str, float]] = {}
        self._shut: dict[str, float] = {}
        self._gone = False
        self._looked, self._answered = float("-inf"), time.monotonic()

    def look(self, *, now: bool = False) -> bool:
        """Look at the nodes, unless that was done a moment ago; returns whether there is something new to know.

        Args:
            now: look in any case.

        Raises:
            FatalError: the cluster is gone.
        """
        if not now and time.monotonic() - self._looked < _LOOK:
            return False
        self._looked = time.monotonic()
        if self.answers():
            self._nodes, self._answered = ray.nodes(), time.monotonic()
            self._seen |= {node["NodeID"]: node["Resources"] for node in self._nodes if node["Alive"]}
            return True
        if time.monotonic() - self._answered > _PATIENCE:
            self._gone = True
            raise FatalError(
                f"the Ray cluster at {self.address} is gone: its head node has not answered for {_PATIENCE:g} s; "
                "finished shards are kept, run the same command again when the cluster is back"
            )
        return False

    def answers(self) -> bool:
        """Whether the control service takes connections; not asked again once the cluster is gone."""
        return not self._gone and _is_open(self.address)

    def fits(self, resources: Resources) -> int:
        """Workers with these resources that the living nodes hold, if nobody else is at work there."""
        return sum(_fits(node["Resources"], resources) for node in self._living())

    def _living(self) -> list[dict[str, Any]]:
        shut = {node for node, since in self._shut.items() if time.monotonic() - since < _SHUT}
        return [node for node in self._nodes if node["Alive"] and node["NodeID"] not in shut]

    def ever_fit(self, resources: Resources) -> bool:
        """Whether a node seen so far, alive or not by now, could hold a worker: what was there may come back."""
        return any(_fits(have, resources) for have in self._seen.values())

    def lost(self, node: str) -> bool:
        """Whether a node is gone. Ray may need a minute to know, so the node itself is asked, too."""
        self.look(now=True)
        known = next((entry for entry in self._nodes if entry["NodeID"] == node), None)
        if known is None or not known["Alive"]:
            return True
        if _is_open(f"{known['NodeManagerAddress']}:{known['NodeManagerPort']}"):
            return False
        self._shut[node] = time.monotonic()
        return True

    def words(self) -> str:
        """The living nodes, for messages."""
        have = [node["Resources"] for node in self._living()]
        return "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in have) or "none"


def _fits(have: dict[str, float], resources: Resources) -> int:
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": float(resources.memory or 0)}
    return int(min(have.get(name, 0.0) / amount for name, amount in wanted.items() if amount))


def _is_open(address: str) -> bool:
    try:
        knock(address)
    except OSError:
        return False
    return True


def knock(address: str) -> None:
    """Open and close a connection: Ray itself tries an address where nobody answers for minutes.

    Raises:
        OSError: nobody answers.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def knock_as_ray(address: str) -> None:
    """Knock where Ray will go: it takes this machine's outward address for a loopback one.

    Raises:
        OSError: nobody answers; says where.
    """
    knock(address)
    scheme, separator, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if host in ("localhost", "127.0.0.1") and not scheme.startswith("ray"):
        outward = f"{scheme}{separator}{get_node_ip_address()}:{port}"
        try:
            knock(outward)
        except OSError as error:
            raise OSError(f"Ray goes to {outward} instead, and there: {error}") from error


def connect(address: str | None) -> tuple[Cluster, bool]:
    """Connect to a cluster, or start one on this machine.

    Args:
        address: of the cluster; absent: what `RAY_ADDRESS` says, or none.

    Returns:
        The cluster, and whether the connection was made here.

    Raises:
        FatalError: it cannot be reached or started.
    """
    made = not ray.is_initialized()
    if made:
        address = address or os.environ.get("RAY_ADDRESS")
        handlers = _signal_handlers()
        try:
            _init(address)
        except (OSError, ValueError, RuntimeError) as error:
            raise FatalError(
                f"Ray at {address or 'this machine'}: cannot connect: {error}; "
                "is the cluster up, the address right, RAY_AUTH_MODE=token set where it wants a token?"
            ) from error
        for number, handler in handlers.items():  # Ray puts its own in their place
            signal.signal(number, handler)
    return Cluster(ray.get_runtime_context().gcs_address), made


def _init(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # numba cannot compile a print that Ray has replaced
    ray_constants.ENABLE_RAY_CLUSTER = _CLUSTERS and bool(address)  # without, Ray listens on loopback alone
    local = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    if address:
        knock_as_ray(address)
        local = {}
    ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)


def _signal_handlers() -> dict[int, Any]:
    """The handlers of this process; empty outside the main thread, which alone can set them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

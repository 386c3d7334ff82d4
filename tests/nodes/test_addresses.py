"""Where nobody answers, the driver says so at once instead of letting Ray try for minutes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from ray.util import get_node_ip_address

from kxbatch.engine.executors.cluster import knock, knock_as_ray


@pytest.fixture
def listener() -> Iterator[str]:
    """An address on the loopback interface where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_on_loopback_is_told_from_one_that_ray_can_reach(listener: str) -> None:
    knock(listener)
    if get_node_ip_address() == "127.0.0.1":  # no other network here: Ray stays on loopback
        knock_as_ray(listener)
        return
    with pytest.raises(OSError, match=f"Ray goes to {get_node_ip_address()}:{listener.rpartition(':')[2]} instead"):
        knock_as_ray(listener)


def test_nobody_there_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        knock_as_ray(f"127.0.0.1:{port}")

"""Machines in miniature: network, mount, process and host name spaces joined by a bridge, with a Ray node in each.

Every machine has an address 10.77.0.N, a host name `nodeN`, and its own /tmp, /dev/shm and /mnt/own. /mnt/shared is the one
folder that all of them see. Run it by `unshare -rnm`, so that it may make such things and nothing of them outlives it.

usage: network_script.py SHARED COUNT
prints one JSON line when the cluster is up and one after every command: {"pids": [...]}, a process of each machine to enter it by
commands: "cut NUMBER" (take the network of a machine down, 1 being the head), "end"
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SHARED, COUNT = sys.argv[1], int(sys.argv[2])
CODE = str(Path(__file__).parents[2])  # with the environment; it may lie below /tmp
MACHINE = """
hostname "node$1"
mount -t tmpfs none /mnt
mkdir /mnt/shared /mnt/own /mnt/code
mount --bind "$2" /mnt/shared
mount --bind "$3" /mnt/code
mount -t tmpfs none /tmp
test -d "$3" || { mkdir -p "$3"; mount --bind /mnt/code "$3"; }
mount -t tmpfs none /dev/shm
ip link set lo up
echo ready
exec sleep infinity
"""
OPTIONS = ["--num-cpus=1", "--object-store-memory=83886080", "--disable-usage-stats"]


def do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def enter(pid: str) -> list[str]:
    return ["nsenter", "-t", pid, "-n", "-m", "-p", "-u", "sh", "-c", 'cd /mnt/own && exec "$@"', "sh"]


def hold(number: int) -> subprocess.Popen[str]:
    """Start a machine: whoever ends this process ends all that runs on it."""
    command = ["unshare", "-nmpu", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", MACHINE, "sh"]
    holder = subprocess.Popen([*command, str(number), SHARED, CODE], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    if holder.stdout.readline() != "ready\n":
        raise SystemExit(f"machine {number} did not start")
    return holder


def plug_in(number: int, holder: subprocess.Popen[str]) -> str:
    """Connect a machine to the bridge; returns a process of it."""
    pid = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0]
    do("ip", "link", "add", f"plug{number}", "type", "veth", "peer", "name", "eth0", "netns", pid)
    do("ip", "link", "set", f"plug{number}", "master", "bridge", "up")
    do(*enter(pid), "ip", "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
    do(*enter(pid), "ip", "link", "set", "eth0", "up")
    return pid


def start_ray(number: int, pid: str) -> None:
    role = ["--head", "--port=6379", "--include-dashboard=false"] if number == 1 else ["--address=10.77.0.1:6379"]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address=10.77.0.{number}"]
    do(*enter(pid), *ray, *role, *OPTIONS)


def serve(holders: dict[int, subprocess.Popen[str]]) -> None:
    do("ip", "link", "set", "lo", "up")
    do("ip", "link", "add", "bridge", "type", "bridge")
    do("ip", "link", "set", "bridge", "up")
    pids = []
    for number in range(1, COUNT + 1):
        holders[number] = hold(number)
        pids.append(plug_in(number, holders[number]))
        start_ray(number, pids[-1])
    while True:
        print(json.dumps({"pids": pids}), flush=True)
        command, *numbers = sys.stdin.readline().split() or ["end"]
        if command != "cut":
            return
        do("ip", "link", "set", f"plug{numbers[0]}", "down")


def main() -> None:
    holders: dict[int, subprocess.Popen[str]] = {}
    try:
        serve(holders)
    finally:
        for holder in holders.values():
            holder.kill()


if __name__ == "__main__":
    main()

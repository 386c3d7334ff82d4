"""What the engine costs at scale: every verb as a whole process on ten million rows, wall time and peak memory of each.

python -m tests.bench.scale [--rows 10_000_000] [--dim 64] [--shards 160] [--job vectors|texts] [--id none|column] [--json]

The corpus is Parquet: `doc` (unique text) and `vector` (float32). The job `vectors` whitens the vectors that are there; the job
`texts` makes vectors from `doc` with an encoder that costs next to nothing, then whitens those. A row group is a shard.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROWS_A_FILE = 1_000_000
ENCODER = '''
import numpy as np

DIM = {dim}
GOLDEN, A, B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def embed(texts):
    """Uniform float32 in [0, 1), drawn from the number at the end of each text by SplitMix64."""
    numbers = np.array([int(text[1:]) if text[1:].isdigit() else 0 for text in texts], np.uint64)
    z = (numbers[:, None] * np.uint64(DIM) + np.arange(DIM, dtype=np.uint64)) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * A
    z = (z ^ (z >> np.uint64(27))) * B
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
'''


@dataclass(frozen=True)
class Cost:
    """One process: what it did, wall and CPU seconds, and the most memory it held (of it alone, not of its children)."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_mb: float


def generate(folder: Path, rows: int, dim: int, shards: int) -> None:
    """Write the corpus once; files of a million rows, `shards` row groups in all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    group = -(-rows // shards)
    per_file = max(group, ROWS_A_FILE // group * group)
    for number, first in enumerate(range(0, rows, per_file)):
        count = min(per_file, rows - first)
        draw = np.random.default_rng([7, number])
        flat = pa.array(draw.standard_normal(count * dim, np.float32))
        docs = np.char.mod("d%09d", np.arange(first, first + count))
        table = pa.table({"doc": pa.array(docs), "vector": pa.FixedSizeListArray.from_arrays(flat, dim)})
        pq.write_table(
            table,
            folder / f"rows-{number:05d}.parquet",
            row_group_size=group,
            compression={"doc": "zstd", "vector.list.element": "none"},
            use_dictionary=False,
            write_statistics=False,
        )


def write_job(folder: Path, data: Path, kind: str, ids: str, executor: str) -> Path:
    """The job file; a shard aims at one byte, so every row group is one."""
    stages = '[[stage]]\nkind = "whiten"\n'
    if kind == "texts":
        stages = '[[stage]]\nkind = "embed"\ncolumn = "doc"\nmodel = "callable:cheap_encoder:embed"\n\n' + stages
    column = "doc" if kind == "texts" else "vector"
    path = folder / "job.toml"
    path.write_text(
        f'[job]\nname = "scale"\noutput = "{folder / "out"}"\nexecutor = "{executor}"\n\n'
        f'[input]\npath = "{data}"\ncolumns = ["{column}"]\nshard_size = 1\n'
        + ('id = "doc"\n' if ids == "column" else "")
        + "\n"
        + stages
    )
    return path


def measure(name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run a process to its end. The kernel's high-water mark is polled, so that children do not count."""
    start, peak = time.perf_counter(), 0
    with (folder / "commands.log").open("a") as log:
        log.write(f"== {name}\n")
        log.flush()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        ended = 0
        while not ended:
            peak = max(peak, high_water(process.pid))
            time.sleep(0.02)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{name}: exit status {process.returncode}; see {folder / 'commands.log'}")
    seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return Cost(name, round(seconds, 2), round(cpu, 2), round(peak / 1e3, 1))


def line(cost: Cost) -> str:
    """A line of the table."""
    return f"{cost.name:<22} {cost.seconds:>10.2f} s {cost.cpu_seconds:>10.2f} CPU s {cost.peak_mb:>8.1f} MB"


def high_water(pid: int) -> int:
    """Peak resident memory of a living process in kB, 0 where it cannot be told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def costs(job: Path, folder: Path, profiles: Path | None) -> list[Cost]:
    """Every verb, in the order a user meets them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    out = str(folder / "out")
    steps = {
        "plan, fresh": ["plan", str(job)],
        "run": ["run", str(job), "--quiet", "--no-report"],
        "report": ["report", out],
        "plan, done": ["plan", str(job)],
        "run, nothing to do": ["run", str(job), "--quiet"],
        "plan, gamma changed": ["plan", str(job), "--set", "whiten.gamma=0.5"],
        "status": ["status", out],
        "verify": ["verify", out],
    }
    found = []
    for name, words in steps.items():
        profile = [] if profiles is None else ["-m", "cProfile", "-o", str(profiles / f"{name.replace(' ', '-')}.prof")]
        found.append(measure(name, [sys.executable, *profile, "-m", "kxbatch", *words], folder, environment))
        print(line(found[-1]), file=sys.stderr, flush=True)
    return found


def left_behind(out: Path) -> dict[str, Any]:
    """Number and bytes of what a run leaves beside the parts."""
    groups = {
        "receipts": list(out.glob("*/_kxbatch/receipts/*/*.json")),
        "fold states": list(out.glob("*/_kxbatch/state/**/*.safetensors")),
        "manifest": list(out.glob("_kxbatch/manifest.json")),
        "hashes of ids": list(out.glob("_kxbatch/ids/*.npy")),
        "run.json": list(out.glob("run.json")),
        "card.json": list(out.glob("*/_artifact/card.json")),
        "log.jsonl": list(out.glob("log.jsonl")),
        "report.html": list(out.glob("report.html")),
        "parts": list(out.glob("*/part-*.parquet")),
    }
    return {
        name: {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}
        for name, files in groups.items()
    }


def rehearse(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One measurement from the corpus to the table."""
    rows, dim, shards = arguments.rows, arguments.dim, arguments.shards
    data = (arguments.data or folder) / f"rows{rows}-dim{dim}-shards{shards}"
    if not data.is_dir():
        program = f"from tests.bench.scale import *; generate(Path({str(data)!r}), {rows}, {dim}, {shards})"
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)  # numpy's memory is not to be ours
    (folder / "cheap_encoder.py").write_text(ENCODER.format(dim=dim))
    job = write_job(folder, data, arguments.job, arguments.id, arguments.executor)
    found = costs(job, folder, arguments.profiles)
    record = json.loads((folder / "out/run.json").read_text())
    return {
        "rows": rows,
        "dim": dim,
        "shards": record["input"]["shards"],
        "job": arguments.job,
        "id": arguments.id,
        "executor": arguments.executor,
        "rows_per_second": {stage["name"]: stage["rows_per_second"] for stage in record["stages"]},
        "costs": [asdict(cost) for cost in found],
        "left": left_behind(folder / "out"),
        "environment": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
    }


def show(facts: Mapping[str, Any]) -> None:
    """The table."""
    print(f"{facts['rows']:,} rows x {facts['dim']}, {facts['shards']:,} shards, job {facts['job']}, ids {facts['id']}")
    for cost in facts["costs"]:
        print(line(Cost(**cost)))
    for name, left in facts["left"].items():
        print(f"{name:<22} {left['files']:>10,} files {left['bytes']:>14,} bytes")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--shards", type=int, default=160, help="row groups in all; about 16 MB each by default")
    parser.add_argument("--job", choices=("vectors", "texts"), default="vectors")
    parser.add_argument("--id", choices=("none", "column"), default="none")
    parser.add_argument("--executor", choices=("inline", "ray"), default="inline")
    parser.add_argument("--data", type=Path, help="folder where corpora are kept; absent: made for this run")
    parser.add_argument("--profiles", type=Path, help="folder for a profile of every process (slower)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.data) as name:
        facts = rehearse(arguments, Path(name))
    print(json.dumps(facts, indent=2)) if arguments.json else show(facts)


if __name__ == "__main__":
    main()

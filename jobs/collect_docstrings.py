"""Collect the docstrings of the installed Python packages into one JSONL corpus.

    python jobs/collect_docstrings.py --output out/demo/docstrings.jsonl --limit 10000

A real English corpus that is there on every machine: nothing is downloaded, and other people wrote all of it.
Each package is read in a process of its own with a time limit and without a network, so that an import that
fails, exits, crashes or hangs costs that module or that package, never the run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

PACKAGES = (
    "click", "jinja2", "matplotlib", "numba", "numpy", "pandas", "polars", "pyarrow", "pydantic",
    "ray", "rich", "scipy", "sklearn", "torch", "transformers",
)  # fmt: skip
PRIVATE_PARTS = {"conftest", "externals", "setup", "thirdparty", "thirdparty_files", "vendor", "vendored"}
MIN_CHARACTERS = 20
MAX_DEPTH = 3  # parts of a module's dotted name; deeper ones hold implementations, not the public interface
PACKAGE_SECONDS = 120  # far above what any package needs: ends a hang, never cuts a slow machine short
QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",  # some docstrings are written at import time from sets
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
}
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass
class Harvest:
    """What one package gave: its rows (`id, package, module, name, text`) and what was left out."""

    rows: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def is_public(module_name: str) -> bool:
    """Whether a module is part of its package's interface: not private, vendored, a test or generated."""
    parts = module_name.split(".")
    return len(parts) <= MAX_DEPTH and not any(
        part.startswith("_") or "test" in part or part.endswith("_pb2") or part in PRIVATE_PARTS for part in parts[1:]
    )


def public_modules(name: str, counts: Counter[str]) -> Iterator[tuple[str, ModuleType]]:
    """Import a package and its public submodules in sorted order, each under the name it was found by.

    Args:
        name: dotted name to begin with.
        counts: `modules_failed` goes up by one for every module that does not import.
    """
    try:
        module = importlib.import_module(name)
        found = list(pkgutil.iter_modules(getattr(module, "__path__", [])))
    except KeyboardInterrupt:
        raise
    except BaseException:  # an import may raise anything, SystemExit included
        counts["modules_failed"] += 1
        return
    yield name, module
    for child in sorted(f"{name}.{info.name}" for info in found):
        if is_public(child):
            yield from public_modules(child, counts)


def owner(thing: Any) -> str:
    """The package that defines an object, or "" where the object does not say."""
    module = getattr(thing, "__module__", None)
    if not isinstance(module, str):  # functions and methods of C extensions name only what they are bound to
        bound = getattr(thing, "__self__", thing)
        module = getattr(bound if inspect.isclass(bound) else type(bound), "__module__", None)
    return module.partition(".")[0] if isinstance(module, str) else ""


def docstring(thing: Any) -> str:
    """The docstring written for this very object, without indentation and memory addresses, or ""."""
    text = getattr(thing, "__doc__", None)
    if not isinstance(text, str):
        return ""
    kind = type(thing)
    if text == kind.__doc__ or text == vars(kind).get("__doc__"):
        return ""  # an ordinary value shows the docstring of its class
    if is_dataclass(thing) and text.startswith(f"{getattr(thing, '__name__', '')}("):
        return ""  # the signature that dataclasses write when the author wrote nothing
    text = text.encode("utf-8", "replace").decode("utf-8")
    return ADDRESS.sub("", inspect.cleandoc(text)).strip()


def members(module: ModuleType, package: str) -> Iterator[tuple[str, str, Any]]:
    """Public objects of one module that its package defines, and the public attributes of its classes.

    Only attributes in a class's own namespace count: an inherited docstring belongs to the class above.

    Yields:
        Qualified name, the name of the module that defines it, the object.
    """
    for name, thing in sorted(vars(module).copy().items()):
        if name.startswith("_") or inspect.ismodule(thing) or owner(thing) != package:
            continue
        home = str(getattr(thing, "__module__", ""))
        yield name, home, thing
        if not inspect.isclass(thing):
            continue
        for attribute, raw in sorted(vars(thing).items()):
            member = getattr(raw, "__func__", raw)  # what a classmethod or staticmethod wraps
            foreign = inspect.isclass(member) or owner(member) not in (package, "builtins", "functools", "")
            if not attribute.startswith("_") and not foreign:
                yield f"{name}.{attribute}", home, member


def harvest(package: str) -> Harvest:
    """Every docstring of one package: one row an object, under the shortest public name it can be reached by.

    Shortest means fewest dots; among those the module that defines the object wins, then fewest letters.
    """
    result = Harvest()
    best: dict[int, tuple[tuple[int, bool, int, str, str], Any]] = {}  # holding the object keeps its id
    for module_name, module in public_modules(package, result.counts):
        result.counts["modules"] += 1
        for name, home, thing in members(module, package):
            dots = module_name.count(".") + name.count(".")
            rank = (dots, module_name != home, len(module_name) + len(name), module_name, name)
            if id(thing) not in best or rank < best[id(thing)][0]:
                best[id(thing)] = (rank, thing)
    for (*_, module_name, name), thing in best.values():
        text = docstring(thing)
        if len(text) >= MIN_CHARACTERS:
            row = {"id": f"{module_name}:{name}", "package": package, "module": module_name, "name": name}
            result.rows.append({**row, "text": text})
        elif text:
            result.counts["too_short"] += 1
    return result


def refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook that lets no import reach for the network.

    Raises:
        PermissionError: on any attempt to connect or to look up a host.
    """
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}:
        raise PermissionError(f"{event} is not allowed while docstrings are collected")


def fixed_bits(k: int) -> int:
    """Stands in for `secrets.randbits`: scipy puts examples drawn at import time into its docstrings."""
    return random.Random(k).getrandbits(k)


def work(package: str, output: Path) -> NoReturn:
    """Child process: write the harvest of one package to `output` as one JSON object and leave at once."""
    sys.addaudithook(refuse_network)
    secrets.randbits = fixed_bits
    warnings.simplefilter("ignore")
    result = harvest(package)
    output.write_text(json.dumps({"rows": result.rows, "counts": result.counts}), encoding="utf-8")
    os._exit(0)  # exit handlers and threads of the imported packages have no say


def harvest_apart(package: str, folder: Path) -> Harvest | None:
    """Run `work` in a child process; None where it crashed or took more than `PACKAGE_SECONDS`."""
    output = folder / f"{package}.json"
    command = [sys.executable, "-P", str(Path(__file__).resolve())]
    silent = subprocess.DEVNULL
    child = subprocess.Popen(
        [*command, "--worker", package, "--output", str(output)],
        stdin=silent,
        stdout=silent,
        stderr=silent,
        cwd=folder,
        env={**os.environ, **QUIET},
        start_new_session=True,
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=PACKAGE_SECONDS)
    finally:
        end_process_group(child)
    if child.returncode != 0 or not output.exists():
        return None
    found = json.loads(output.read_text(encoding="utf-8"))
    return Harvest(found["rows"], Counter(found["counts"]))


def end_process_group(child: subprocess.Popen[bytes]) -> None:
    """End whatever the child left running in its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def sample(rows: list[dict[str, str]], limit: int) -> list[dict[str, str]]:
    """At most `limit` rows in order of id, chosen by the hash of it: stable when other rows come or go."""
    kept = sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).digest())[:limit]
    return sorted(kept, key=lambda row: row["id"])


def write_jsonl(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Write rows as JSON lines; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def collect(packages: Sequence[str], limit: int, output: Path) -> str:
    """Collect the docstrings of installed packages into `output` and say in one line what came of it.

    Raises:
        SystemExit: not one docstring was found; nothing is written.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        results = pool.map(lambda name: harvest_apart(name, Path(folder)), packages)
        found = dict(zip(packages, results, strict=True))
    whole = [one for one in found.values() if one is not None]
    rows = [row for one in whole for row in one.rows]
    counts = sum((one.counts for one in whole), Counter[str]())
    if not rows:
        raise SystemExit(f"no docstring found in: {', '.join(packages)}; {output} is not written")
    kept = sample(rows, limit)
    write_jsonl(kept, output)
    lost = [name for name, one in found.items() if one is None]
    return (
        f"{len(kept)} rows of {len(rows)} from {len({row['package'] for row in kept})} packages -> {output} "
        f"(under {MIN_CHARACTERS} characters: {counts['too_short']}, modules that do not import: "
        f"{counts['modules_failed']}, packages lost: {', '.join(lost) or 'none'})"
    )


def main() -> None:
    """Parse the command line and collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSONL file to write")
    parser.add_argument("--limit", type=int, default=10_000, help="most rows to keep (default 10000)")
    parser.add_argument("--package", action="append", help="import name, repeatable (default: a fixed list)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.limit < 1:
        parser.error(f"--limit is {arguments.limit}; it must be at least 1")
    if arguments.worker:
        work(arguments.worker, arguments.output)
    installed = [name for name in arguments.package or PACKAGES if importlib.util.find_spec(name) is not None]
    absent = sorted(set(arguments.package or ()) - set(installed))
    if absent:
        parser.error(f"--package names what is not installed: {', '.join(absent)}")
    print(collect(sorted(set(installed)), arguments.limit, arguments.output))


if __name__ == "__main__":
    main()

"""A small finished output whose documents are damaged one at a time; what every verb makes of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import ENCODER
from fuzz.guard import STATUSES, put, verb
from support import audit_job, tree_digests, write_texts

OUTPUT = "out/audit"
JOB = "job.toml"
READERS = [
    ("status", OUTPUT),
    ("verify", OUTPUT),
    ("verify", OUTPUT, "--stage", "whiten"),
    ("plan", JOB, "--json"),
    ("quarantine", "ls", OUTPUT),
    ("quarantine", "show", OUTPUT),
    ("lineage", f"{OUTPUT}/hubness/part-00000.parquet"),
    ("export", OUTPUT, "--to", "flat.jsonl", "--overwrite"),
    ("inspect", f"{OUTPUT}/whiten"),
]
REPORT = ("report", OUTPUT)
DOCUMENTS = {
    "manifest": "_kxbatch/manifest.json",
    "defects": "_kxbatch/defects.json",
    "record": "run.json",
    "progress": "progress.json",
    "card": "whiten/_artifact/card.json",
    "files": "hubness/_artifact/card.json",
    "blocks": "hubness/_kxbatch/blocks.json",
    "patches": "hubness/_kxbatch/patches.json",
    "configuration": "whiten/_kxbatch/configuration.json",
}


class Case:
    """The output as its run left it, and one that may be damaged."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with self.here():
            for number in range(2):
                write_texts(Path(f"data/texts-{number}.jsonl"), number * 12, 12)
            with Path("data/texts-1.jsonl").open("a") as file:
                file.write(json.dumps({"doc": "blank", "text": " ", "lang": "xx"}) + "\n")
            Path("trigrams.py").write_text(ENCODER)
            Path(JOB).write_text(_toml())
            status, out, err = verb("run", JOB, "--no-report", "-q")
            assert status == 0, out + err
            put(Path(OUTPUT, DOCUMENTS["defects"]), json.dumps([_DEFECT]).encode())
            shutil.copytree("out", "pristine")
            self.digests = tree_digests(Path(OUTPUT))

    @contextmanager
    def here(self) -> Iterator[None]:
        """In the folder of the case, with its encoder importable."""
        before = Path.cwd()
        self.home.mkdir(exist_ok=True)
        os.chdir(self.home)
        sys.path.insert(0, str(self.home))
        try:
            yield
        finally:
            os.chdir(before)
            sys.path.remove(str(self.home))

    def restore(self) -> None:
        """The output as the run left it; to be called in the folder."""
        shutil.rmtree("out", ignore_errors=True)
        shutil.copytree("pristine", "out")

    def read(self, name: str) -> bytes:
        """A file of the output as the run left it."""
        return (self.home / "pristine/audit" / name).read_bytes()

    def check(self, name: str, data: bytes, reader: tuple[str, ...] = READERS[0]) -> str:
        """Damage a file: a reader of the output and a run end in a documented status and with words.

        The run mends it, or names the file, and then removing that file mends it. After that every part is, byte for byte,
        what it was. Says how it went.
        """
        with self.here():
            self.restore()
            put(Path(OUTPUT, name), data)
            status, out, err = verb(*reader)
            assert status in STATUSES, (reader, status, err)
            assert status != 1 or name in err, f"{reader} does not name {name}: {err}"
            way = self._run(name)
            status, out, err = verb("verify", OUTPUT)
            assert status == 0, out + err
            assert tree_digests(Path(OUTPUT)) == self.digests
            return way

    def _run(self, name: str) -> str:
        status, out, err = verb("run", JOB, "--no-report", "-q", "--json")
        if status == 0:
            return "mended"
        words = err + out
        assert status in STATUSES, words
        assert name in words, f"the run does not name {name}: {words}"
        for failure in json.loads(out)["failures"] if out.strip() else ():
            assert failure["error"] in ("DataError", "ConfigError", "FatalError"), failure
        Path(OUTPUT, name).unlink()
        status, out, err = verb("run", JOB, "--no-report", "-q")
        assert status == 0, out + err
        return "refused"


_DEFECT = {"stage": "embed", "key": "part-00000", "file": "part-00000.parquet", "problem": "the file is gone"}


def _toml() -> str:
    """The job as a file: embed, whiten, hubness; a failing shard is tried once."""
    raw = audit_job(embed={"keep": ["lang"]})
    stages = [raw["stage"][0], {**raw["stage"][2], "dim": 4}, {**raw["stage"][3], "block_rows": 12}]
    tables = [("[job]", raw["job"]), ("[input]", {**raw["input"], "shard_size": "1MB"})]
    tables += [("[[stage]]", {**stage, "resources.attempts": 1}) for stage in stages]
    lines = [
        f"{head}\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in body.items()) for head, body in tables
    ]
    return "\n".join(lines).replace("[input]", "[job.quarantine]\nmax_share = 0.5\n\n[input]")

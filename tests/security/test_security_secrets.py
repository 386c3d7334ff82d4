"""Secrets of the environment end in no file of an output and in no message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import audit_job, write_texts

SECRETS = {
    "AWS_ACCESS_KEY_ID": "MARKEDACCESSKEYID00",
    "AWS_SECRET_ACCESS_KEY": "marked-secret-access-key-1",
    "AWS_SESSION_TOKEN": "marked-session-token-2",
    "HF_TOKEN": "hf_markedtoken3",
    "GOOGLE_API_KEY": "marked-google-4",
    "KXBATCH_UNRELATED": "marked-unrelated-5",
    "DATABASE_URL": "postgres://u:marked-password-6@h/x",
}


def kxbatch(*arguments: str) -> tuple[int, str]:
    """A verb in a process of its own: exit status, and everything it said."""
    environment = {**os.environ, **SECRETS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "KXBATCH_TRACEBACK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "kxbatch", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def leaks(text: str) -> list[str]:
    return [name for name, value in SECRETS.items() if value in text]


def written(output: Path) -> list[str]:
    """Files of an output that hold a secret, in any encoding of its bytes."""
    files = [path for path in output.rglob("*") if path.is_file()]
    assert {"run.json", "log.jsonl", "progress.json", "report.html"} <= {path.name for path in files}
    return [str(path) for path in files for value in SECRETS.values() if value.encode() in path.read_bytes()]


@pytest.fixture
def job(workplace: Path) -> Path:
    write_texts(Path("data/a.jsonl"), 0, 12)
    raw = audit_job()
    stage = raw["stage"][0]
    lines = ["[job]", *(f"{k} = {json.dumps(v)}" for k, v in raw["job"].items()), "[input]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in raw["input"].items()] + ["[[stage]]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in stage.items()] + ["resources.attempts = 1"]
    Path("job.toml").write_text("\n".join(lines) + "\n")
    return Path("job.toml")


def test_a_run_that_ends_well(job: Path) -> None:
    status, said = kxbatch("run", str(job))
    assert status == 0, said
    assert not written(Path("out/audit"))
    assert not leaks(said)
    for verb in ("status", "verify", "report"):
        assert not leaks(kxbatch(verb, "out/audit")[1])


def test_a_run_that_fails_with_a_traceback(job: Path) -> None:
    """The trace of a failing encoder is logged; values of variables are no part of it."""
    Path("trigrams.py").write_text(
        "import os\ndef embed(texts):\n    held = dict(os.environ)\n    raise RuntimeError('no luck')\n"
    )
    status, said = kxbatch("run", str(job))
    assert status == 3, said
    assert "no luck" in Path("out/audit/log.jsonl").read_text()
    assert not written(Path("out/audit"))
    assert not leaks(said)


def test_messages_about_storage_and_configuration(job: Path) -> None:
    for words in (
        ["--set", "input.path=s3://bucket/key.jsonl"],
        ["--set", "embed.nonsense=1"],
        ["--set", "input.id=nothing"],
    ):
        status, said = kxbatch("plan", str(job), *words)
        assert status != 0
        assert not leaks(said), said

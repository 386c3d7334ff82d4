"""What workers of a stage are told, and what the footers of its parts say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kxbatch.engine.job import Job, Node
from kxbatch.engine.manifest import CorpusPlan
from kxbatch.spec.model import InputSection


@dataclass(frozen=True)
class Assignment:
    """Everything a worker must know about its stage; plain data, so that it crosses processes."""

    base: str
    output: str
    job: str
    run: str
    token: int
    seed: int
    input: InputSection
    schema: bytes
    stage: str
    config: dict[str, Any]
    column: str
    upstream: str
    footer: dict[str, str]


def assign(job: Job, node: Node, corpus: CorpusPlan, *, run: str, token: int) -> Assignment:
    """The assignment of a stage's workers."""
    config = node.config
    footer = {
        "job": job.spec.job.name,
        "stage": node.name,
        "kind": config.kind,
        "stage_version": str(node.stage.version),
    }
    footer |= {
        "fingerprint": node.chain,
        "upstream": node.upstream,
        "configuration": json.dumps(config.semantic()),
    }
    return Assignment(
        base=str(job.base),
        output=job.output.path,
        job=job.spec.job.name,
        run=run,
        token=token,
        seed=job.spec.job.seed,
        input=job.spec.input,
        schema=corpus.schema.serialize().to_pybytes(),
        stage=node.name,
        config=config.model_dump(mode="json"),
        column=node.stage.column,
        upstream=node.upstream,
        footer=footer | node.identity,
    )

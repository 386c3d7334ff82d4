"""What workers of a stage are told, and what the footers of its parts say."""

from __future__ import annotations

import json

from kxbatch.engine.job import Job, Node
from kxbatch.engine.manifest import CorpusPlan
from kxbatch.engine.worker import Assignment


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

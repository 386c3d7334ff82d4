"""From a job file to what can be planned or run: its corpus cut, its stages built, its columns checked."""

from __future__ import annotations

from kxbatch.engine.corpus import check_readable, plan_corpus
from kxbatch.engine.job import Job, Node, build_tree
from kxbatch.engine.links import check_no_links
from kxbatch.engine.manifest import CorpusPlan
from kxbatch.engine.training_session import deepspeed_override
from kxbatch.errors import ConfigError
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.base import TrainStage
from kxbatch.training.refusals import refuse_in_one_process, refuse_with_deepspeed


def prepare(job: Job) -> tuple[CorpusPlan, list[Node]]:
    """Plan the corpus and build the stages; writes nothing.

    Raises:
        ConfigError: the job cannot run as it is written.
        DataError: no input file can be read.
    """
    check_no_links(job.output, [stage.name for stage in job.spec.stage])
    corpus = plan_corpus(job)
    nodes = build_tree(job, corpus.columns)
    for node in nodes:
        if isinstance(node.stage, TrainStage):
            _check_training(job, node.name, node.stage.training)
    roots = [node for node in nodes if node.upstream == "input"]
    check_readable(corpus, {name for node in roots for name in (*node.stage.columns, *node.config.keep)})
    return corpus, nodes


def _check_training(job: Job, stage: str, config: TrainingConfig) -> None:
    """What can be known to fail is told before the first row is read.

    Raises:
        ConfigError: names the stage.
    """
    try:
        if job.spec.job.executor == "inline":
            refuse_in_one_process(config)
        else:
            refuse_with_deepspeed(config)
            deepspeed_override(job.base, config)
    except ConfigError as error:
        raise ConfigError(f"{job.origin}: stage {stage}: {error}") from None

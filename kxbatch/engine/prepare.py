"""From a job file to what can be planned or run: its corpus cut, its stages built, its columns checked."""

from __future__ import annotations

from kxbatch.engine.corpus import check_readable, plan_corpus
from kxbatch.engine.job import Job, Node, build_tree
from kxbatch.engine.links import check_no_links
from kxbatch.engine.manifest import CorpusPlan


def prepare(job: Job) -> tuple[CorpusPlan, list[Node]]:
    """Plan the corpus and build the stages; writes nothing.

    Raises:
        ConfigError: the job cannot run as it is written.
        DataError: no input file can be read.
    """
    check_no_links(job.output, [stage.name for stage in job.spec.stage])
    corpus = plan_corpus(job)
    nodes = build_tree(job, corpus.columns)
    roots = [node for node in nodes if node.upstream == "input"]
    check_readable(corpus, {name for node in roots for name in (*node.stage.columns, *node.config.keep)})
    return corpus, nodes

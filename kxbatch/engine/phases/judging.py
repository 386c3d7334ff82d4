"""A stage's gate: whether the rows that came in since the last good run look like those before.

Rows found good are remembered, those found bad are not: a job that ended with status 4 ends so again until its cause is mended or
its limits are raised, whatever is computed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import TypeAdapter

from kxbatch.data.documents import Document, publish_sealed, read_sealed
from kxbatch.data.receipts import BOOKKEEPING, Receipt
from kxbatch.engine.job import Node
from kxbatch.errors import BudgetExceeded
from kxbatch.spec.fingerprint import fingerprint

JUDGED = f"{BOOKKEEPING}/judged.json"
Totals = dict[str, float]


class _Judged(Document):
    """Attributes: how rows were scored, the digests of the shards found good, and the counters of all of them."""

    configuration: str
    shards: dict[str, str]
    totals: dict[str, float]


_JUDGED = TypeAdapter(_Judged)


def judge(node: Node, artifact: str, receipts: Mapping[str, Receipt]) -> None:
    """Ask the stage about the rows that are new, and remember them if it has nothing against them.

    Args:
        node: the stage, all of whose parts are there.
        artifact: digest of what it fitted.
        receipts: of its parts.

    Raises:
        BudgetExceeded: it has; the parts are kept.
    """
    if not node.stage.has_gate:
        return
    configuration = fingerprint([node.code("map"), artifact])
    found = read_sealed(node.folder, JUDGED, _JUDGED, "remove it, and all rows are judged anew")
    known = found or {"configuration": "", "shards": {}, "totals": {}}
    same = known["configuration"] == configuration
    fresh = {key: r for key, r in receipts.items() if known["shards"].get(key) != r.ingredients["input"]}
    if same and not fresh:
        return
    new = totals((fresh or receipts).values())  # the same rows, scored in another way: all are looked at again
    before = totals(receipts[key] for key in receipts if key not in fresh) if fresh else {}
    if same and not before:
        before = known["totals"]  # of a corpus that was replaced as a whole: what there was
    problems = node.stage.judge(new, before)
    if problems:
        raise BudgetExceeded(
            f"stage {node.name}: {'; '.join(problems)}. Its parts are kept, stages after it did not run. Look at the lowest "
            f"rows in the report; to let these rows pass, raise the limit for one run with --set {node.name}.gate.<key>=<value>"
        )
    shards = {key: receipt.ingredients["input"] for key, receipt in sorted(receipts.items())}
    told = {"configuration": configuration, "shards": shards, "totals": totals(receipts.values())}
    publish_sealed(node.folder, JUDGED, told)


def totals(receipts: Iterable[Receipt]) -> Totals:
    """Sums of counters."""
    sums: Totals = {}
    for receipt in receipts:
        for name, value in receipt.counters.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums

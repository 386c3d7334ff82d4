"""A stage's gate: whether the rows that came in since the last good run look like those before.

Rows found good are remembered, and so are those found bad, as a group of their own: good rows that come later do not water them
down. A job that ended with status 4 ends so again until its cause is mended or its limits are raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from kxbatch.data.documents import Document, publish_sealed, read_sealed
from kxbatch.data.receipts import BOOKKEEPING, Receipt
from kxbatch.engine.job import Node
from kxbatch.errors import BudgetExceeded
from kxbatch.spec.fingerprint import fingerprint

JUDGED = f"{BOOKKEEPING}/judged.json"
Totals = dict[str, float]


class _Judged(Document):
    """Attributes: what was computed; shards found good and found bad, with the digests of their input; counters of the good."""

    configuration: str
    shards: dict[str, str]
    bad: dict[str, str]
    totals: dict[str, float]


_JUDGED = TypeAdapter(_Judged)


def judge(node: Node, artifact: str, receipts: Mapping[str, Receipt]) -> None:
    """Ask the stage about the rows that are new, and remember what it says of them.

    Args:
        node: the stage.
        artifact: digest of what it fitted.
        receipts: of the parts that are there.

    Raises:
        BudgetExceeded: it has something against some; the parts are kept.
    """
    if not node.stage.has_gate:
        return
    configuration = fingerprint([node.code("map"), artifact])
    found = read_sealed(node.folder, JUDGED, _JUDGED, "remove it, and all rows are judged anew")
    known = found or {"configuration": "", "shards": {}, "bad": {}, "totals": {}}
    same, inputs = known["configuration"] == configuration, {key: r.ingredients["input"] for key, r in receipts.items()}
    bad = {key for key, digest in inputs.items() if known["bad"].get(key) == digest}
    fresh = {key for key, digest in inputs.items() if known["shards"].get(key) != digest} - bad
    if same and not fresh and not bad:
        return
    if not same and not fresh and not bad:
        fresh = set(receipts)  # the same rows, scored in another way: all are looked at again
    good = set(receipts) - fresh - bad
    before = totals(receipts[key] for key in good)
    if same and not before:
        before = known["totals"]  # of a corpus that was replaced as a whole: what there was
    problems: list[str] = []
    for group in (bad, fresh):
        said = node.stage.judge(totals(receipts[key] for key in sorted(group)), before) if group else []
        problems += said
        good, bad = (good, bad | group) if said else (good | group, bad - group)
    told: dict[str, Any] = {
        "configuration": configuration,
        "totals": totals(receipts[key] for key in sorted(good)) or before,
    }
    told |= {name: {key: inputs[key] for key in sorted(keys)} for name, keys in (("shards", good), ("bad", bad))}
    publish_sealed(node.folder, JUDGED, told)
    if problems:
        raise BudgetExceeded(
            f"stage {node.name}: {'; '.join(problems)}. Its parts are kept, stages after it did not run. Look at the lowest "
            f"rows in the report; to let these rows pass, raise the limit for one run with --set {node.name}.gate.<key>=<value>"
        )


def totals(receipts: Iterable[Receipt]) -> Totals:
    """Sums of counters."""
    sums: Totals = {}
    for receipt in receipts:
        for name, value in receipt.counters.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums

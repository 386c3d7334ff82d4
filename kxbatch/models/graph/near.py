"""Keys of a graph that look like one it does not have."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from kxbatch.kernels.trie import longest_prefix

if TYPE_CHECKING:
    from kxbatch.models.graph.changes import Change
    from kxbatch.models.graph.graph import Graph

_LOOKED_AT = 1000  # keys that begin alike
_SHOWN = 3


def near_keys(graph: Graph, change: Change) -> list[str]:
    """Spellings of keys that begin as the key of a change does, as far as any key goes along with it; most alike first."""
    key = graph.keys_of([change.subject], [change.predicate], [change.meaning])
    found = longest_prefix(graph.trie, key)
    if not found.depth[0]:
        return []
    numbers = graph.trie.completions(found.states, _LOOKED_AT).numbers
    spelled = {_words(fact[0].subject, fact[0].predicate, fact[0].meaning): None for fact in graph.facts(numbers)}
    wanted = _words(change.subject, change.predicate, change.meaning)
    return difflib.get_close_matches(wanted, list(spelled), n=_SHOWN, cutoff=0.4)


def _words(subject: str, predicate: str, meaning: str) -> str:
    return f"'{subject}（{meaning}） / {predicate}'" if meaning else f"'{subject} / {predicate}'"

"""Prefix tries of token sequences in flat arrays: what a constrained decoder may say next, for a batch at a time."""

from kxbatch.kernels.trie.automaton import Automaton, Prefixes, find, longest_prefix
from kxbatch.kernels.trie.keys import Keys, merge_keys, sort_keys, token_dtype
from kxbatch.kernels.trie.overlay import Overlay
from kxbatch.kernels.trie.trie import Allowed, Completions, Trie

__all__ = [
    "Allowed",
    "Automaton",
    "Completions",
    "Keys",
    "Overlay",
    "Prefixes",
    "Trie",
    "find",
    "longest_prefix",
    "merge_keys",
    "sort_keys",
    "token_dtype",
]

"""Prefix tries of token sequences in flat arrays: what a constrained decoder may say next, for a batch at a time."""

from kxbatch.kernels.trie.keys import Keys, merge_keys, sort_keys, token_dtype

__all__ = ["Keys", "merge_keys", "sort_keys", "token_dtype"]

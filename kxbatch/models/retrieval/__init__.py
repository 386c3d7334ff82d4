"""Retrieval by generation: a model says keys of a graph, token by token, and a trie lets it say nothing else."""

"""Graphs of facts for retrieval by generation: keys in a trie, facts beside them, changes over both."""

from kxbatch.models.graph.graph import Fact, Graph, Order
from kxbatch.models.graph.spelling import Spelling
from kxbatch.models.graph.text import normalize, split_meaning
from kxbatch.models.graph.tokenizer import GraphTokenizer

__all__ = ["Fact", "Graph", "GraphTokenizer", "Order", "Spelling", "normalize", "split_meaning"]

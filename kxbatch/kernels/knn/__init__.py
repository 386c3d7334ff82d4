"""Exact k-nearest-neighbour lists."""

from kxbatch.kernels.knn.graph import knn_cross, knn_graph, knn_pair
from kxbatch.kernels.knn.neighbors import Metric, Neighbors, Precision, merge

__all__ = ["Metric", "Neighbors", "Precision", "knn_cross", "knn_graph", "knn_pair", "merge"]

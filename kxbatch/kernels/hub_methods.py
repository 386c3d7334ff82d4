"""The hubness reductions by name, and the metrics each is defined on; light enough to check a job file with."""

from __future__ import annotations

from kxbatch.errors import nearest

SIMILARITIES = ("cosine", "inner")
_ALL = ("cosine", "inner", "euclidean")
METRICS: dict[str, tuple[str, ...]] = {
    "none": _ALL,
    "centering": SIMILARITIES,
    "csls": SIMILARITIES,
    "localized-centering": SIMILARITIES,
    "local-scaling": ("cosine", "euclidean"),
    "nicdm": ("cosine", "euclidean"),
    "mutual-proximity": _ALL,
    "mutual-proximity-empirical": _ALL,
    "dissimlocal": ("cosine", "euclidean"),
}
"""Every reduction and the metrics it is defined on."""


def check_reduction(method: str, metric: str) -> None:
    """Says no to a reduction that does not exist or means nothing for the metric.

    Raises:
        ValueError: with what is allowed instead.
    """
    if method not in METRICS:
        raise ValueError(f"no reduction '{method}'; allowed is {', '.join(METRICS)}{nearest(method, METRICS)}")
    if metric not in _ALL:
        raise ValueError(f"no metric '{metric}'; allowed is {', '.join(_ALL)}{nearest(metric, _ALL)}")
    if metric not in METRICS[method]:
        fitting = [name for name, metrics in METRICS.items() if metric in metrics and name != "none"]
        raise ValueError(
            f"the reduction '{method}' is defined for {' and '.join(METRICS[method])}, not for {metric}; "
            f"for {metric} use {', '.join(fitting)}"
        )

"""Quantiles of what histograms have counted. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def bucket_quantile(quantile: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Return a quantile of observations that are known by bucket only; None where there are none.

    Within a bucket they are taken to be spread evenly, from 0 in the first one; of the last, which has no bound, its
    lower end is told. So does Prometheus' histogram_quantile
    (https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile).

    Args:
        bounds: the buckets' upper ends, rising; positive.
        counts: by bucket, not cumulative: one more than `bounds`, the last for what is above all of them.

    >>> bucket_quantile(0.5, (1.0, 2.0), (1, 2, 1))
    1.5
    >>> bucket_quantile(0.95, (1.0, 2.0), (1, 2, 1))
    2.0
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank = quantile * total
    lower, below = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):  # without the last, which has no bound
        if below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count if count else lower
        lower, below = bound, below + count
    return lower

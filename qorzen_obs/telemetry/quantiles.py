"""Quantiles from histograms. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf


def bucket_quantile(
    quantile: float, bounds: Sequence[float], counts: Sequence[float], largest: float = inf
) -> float | None:
    """Return a quantile of observations known only by bucket; None if there are none.

    Within a bucket they are assumed to be uniformly distributed; the first bucket starts at 0. For the last bucket,
    which has no bound, the result is its lower end. Prometheus' histogram_quantile does the same
    (https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile). If the `largest`
    observation is known, the buckets end there.

    Args:
        bounds: the buckets' upper ends, positive and rising.
        counts: by bucket, not cumulative: one more than `bounds`, the last for values above all of them.

    >>> bucket_quantile(0.5, (1.0, 2.0), (1, 2, 1))
    1.5
    >>> bucket_quantile(0.95, (1.0, 2.0), (1, 2, 1))
    2.0
    >>> bucket_quantile(0.95, (1.0, 60.0), (0, 20, 0), largest=3.0)
    2.9
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank = quantile * total
    lower, below = 0.0, 0.0
    for bound, count in zip((*bounds, largest), counts, strict=True):
        if below + count >= rank and bound < inf:
            upper = max(lower, min(bound, largest))
            return lower + (upper - lower) * (rank - below) / count if count else lower
        lower, below = min(bound, largest), below + count
    return min(bounds[-1], largest)

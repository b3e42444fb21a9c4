"""How far a rate may lie above what a sample shows: the Clopper-Pearson bound, which is exact also for few events or none.

With no event among n it is about 3 / n, the rule of three.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["CONFIDENCE", "chance_of_at_most", "most_allowed", "upper_bound"]

CONFIDENCE = 0.95
"""Of the one-sided upper bound."""


def upper_bound(num_events: int, num_trials: int) -> float:
    """Clopper-Pearson upper bound on a rate: under a higher one, so few events would happen in less than 5 % of samples."""
    if num_events >= num_trials:
        return 1.0
    low, high = num_events / num_trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if chance_of_at_most(num_events, num_trials, middle) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def most_allowed(num_trials: int, rate: float) -> int:
    """Most events whose upper bound is within a rate; -1 where no number of events is."""
    low, high = -1, num_trials
    while low < high:
        middle = (low + high + 1) // 2
        if middle < num_trials and chance_of_at_most(middle, num_trials, rate) <= 1 - CONFIDENCE:
            low = middle
        else:
            high = middle - 1
    return low


def chance_of_at_most(num_events: int, num_trials: int, rate: float) -> float:
    """Chance of at most so many events in a binomial sample, for 0 < rate < 1 and fewer events than trials."""
    if num_events >= num_trials * rate + 8 * math.sqrt(num_trials * rate) + 8:
        return 1.0
    log_last = (
        math.lgamma(num_trials + 1)
        - math.lgamma(num_events + 1)
        - math.lgamma(num_trials - num_events + 1)
        + num_events * math.log(rate)
        + (num_trials - num_events) * math.log1p(-rate)
    )
    # Each chance as a multiple of the last one, from the last downwards. They fall off within some deviations.
    steps = np.arange(min(num_events, 100 + 50 * math.isqrt(num_events)))
    ratios = (num_events - steps) * (1 - rate) / ((num_trials - num_events + steps + 1) * rate)
    return min(1.0, math.exp(log_last) * (1 + float(np.cumprod(ratios).sum())))

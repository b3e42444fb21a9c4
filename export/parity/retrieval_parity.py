"""The third level of parity: mAP, Rank-1 and mINP of both sides on a data set."""

from dataclasses import replace
from typing import Any

import numpy as np

from hat.data.datasets import DISTRACTOR_PID, JUNK_PID, ReIDDataset, Split
from hat.errors import UsageError
from hat.metrics import RankingResult

from .tolerances import Limit, Tolerance
from .verification_report import Check, at_most


def compare_retrieval(reference: RankingResult, candidate: RankingResult, tolerance: Tolerance) -> list[Check]:
    """Change of the figures; a rise counts like a fall, since a file that ranks otherwise than the model is not the model."""
    one_query = 1 / reference.num_queries
    rank1 = tolerance.rank1
    if one_query > rank1.value:
        rank1 = Limit(one_query, f"one of {reference.num_queries} queries: the figure has no finer step")
    return [
        _change("mAP", reference.mAP, candidate.mAP, tolerance.mAP),
        _change("Rank-1", reference.rank1, candidate.rank1, rank1),
        _change("mINP", reference.mINP, candidate.mINP, tolerance.mINP),
    ]


def _change(name: str, before: float, after: float, limit: Limit) -> Check:
    # Rates are quotients of whole numbers: one query more or less must not miss its own limit by the last bit.
    change = round(abs(after - before), 12)
    slack = Limit(limit.value + 1e-12, limit.reason)
    return at_most("retrieval", f"change of {name}", change, slack, f"{100 * before:.2f} -> {100 * after:.2f}")


def some_identities(dataset: ReIDDataset, num_ids: int | None, seed: int) -> ReIDDataset:
    """Return a part of a data set: the query and gallery images of some identities, drawn from those that have a query.

    Args:
        dataset: The whole.
        num_ids: How many identities; None keeps everything.
        seed: Seed of the choice.

    Raises:
        UsageError: ``num_ids`` is below 2.
    """
    if num_ids is None:
        return dataset
    if num_ids < 2:
        raise UsageError(f"retrieval needs at least 2 identities, got {num_ids}")
    known = np.unique(dataset.query.pids)
    known = known[~np.isin(known, (JUNK_PID, DISTRACTOR_PID))]
    if num_ids >= len(known):
        return dataset
    kept = set(np.random.default_rng(seed).choice(known, num_ids, replace=False).tolist())

    def part(split: Split) -> Split:
        return Split(split.name, [sample for sample in split if sample.pid in kept])

    note = f"{num_ids} of {len(known)} query identities, no distractors, seed {seed}"
    return replace(dataset, query=part(dataset.query), gallery=part(dataset.gallery), notes=(*dataset.notes, note))


def describe_dataset(dataset: ReIDDataset, result: RankingResult) -> dict[str, Any]:
    """Name, counts and the reference's figures as plain data."""
    return {"name": dataset.name, "notes": list(dataset.notes), "reference": result.to_dict()}

"""The levels of parity as checks: sound rows, embeddings, batches, rankings, and retrieval on a data set."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hat.data.datasets import DISTRACTOR_PID, JUNK_PID, ReIDDataset, Split
from hat.errors import UsageError
from hat.io.artifact import BatchProfile
from hat.metrics import RankingResult
from hat.runtime import Runtime

from .candidate import artifact_info
from .tolerances import UNIT_LENGTH, Limit, Tolerance
from .verification_report import RATES, Check, ImageShift, PairShift, judge

Rows = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

TOP_K = 10
"""Length of the list that a user looks at."""

_FINITE = Limit(0, "a NaN or an infinity is never right, and poisons a whole gallery")
_SPREAD = Limit(0.5, "embeddings that lie closer together than this are on their way to being one constant")
_ROWS = Limit(0, "one embedding for each image, as wide as the file says")

_ROUNDING = 1e-6
"""Largest error of a unit vector by float32 arithmetic alone: a few dozen of its steps of 6e-8. Where embeddings lie
within a thousandth of each other this is not small beside the distance of two images, and says nothing of the file."""


def inspect_rows(reference: Rows, candidate: Rows) -> list[Check]:
    """Check what can be wrong with rows, (n, embed_dim), by themselves: NaN, another length than one, one constant for all."""
    num_bad = int((~np.isfinite(candidate).all(axis=1)).sum())
    checks = [judge("rows", "rows with NaN", num_bad, "<=", _FINITE)]
    if num_bad:
        return checks
    lengths = np.linalg.norm(candidate.astype(np.float64), axis=1)
    note = f"lengths from {lengths.min():.6g} to {lengths.max():.6g}"
    checks.append(judge("rows", "length off 1", np.abs(lengths - 1).max(), "<=", UNIT_LENGTH, note))
    checks.append(judge("rows", "spread", spread(candidate) / spread(reference), ">=", _SPREAD, "share of the reference's"))
    return checks


def compare_embeddings(reference: Rows, candidate: Rows, tolerance: Tolerance) -> list[Check]:
    """Check the worst cosine and the largest difference over all images, both of (n, embed_dim) finite values."""
    difference = candidate.astype(np.float64) - reference
    cosines = row_cosines(reference, candidate)
    apart = typical_distance(reference)
    moved = max(np.linalg.norm(difference, axis=1).max() - _ROUNDING, 0.0)
    return [
        judge("embedding", "worst cosine", cosines.min(), ">=", tolerance.worst_cosine, f"median {np.median(cosines):.8f}"),
        judge("embedding", "max abs", np.abs(difference).max(), "<=", tolerance.max_abs),
        judge(
            "embedding", "relative shift", moved / apart, "<=", tolerance.relative_shift, f"two images are {apart:.3g} apart"
        ),
    ]


def row_cosines(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> Matrix:
    """Return the cosine of each row with the row of the same index, (n,); 0 where a row is zero."""
    first, second = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: Matrix = (first * second).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return cosines


def typical_distance(rows: Rows) -> float:
    """Return the median Euclidean distance between two different rows."""
    from scipy.spatial.distance import pdist

    return max(float(np.median(pdist(rows))), 1e-150)


def spread(rows: Rows) -> float:
    """Return the mean squared distance of directions from their mean: 0 for one constant, towards 1 all over the sphere."""
    exact = rows.astype(np.float64)
    directions = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return float(((directions - directions.mean(axis=0)) ** 2).sum(axis=1).mean())


def worst_images(reference: Rows, candidate: Rows, paths: Sequence[str], count: int) -> tuple[ImageShift, ...]:
    """Return the images whose embeddings moved most, the worst first."""
    cosines = row_cosines(reference, candidate)
    differences = np.abs(candidate.astype(np.float64) - reference).max(axis=1)
    order = np.lexsort((-differences, cosines))[:count]
    return tuple(ImageShift(int(i), paths[i], float(cosines[i]), float(differences[i])) for i in order)


def batch_sizes(runtime: Runtime) -> list[int]:
    """Return 1, opt, max and max + 1 of the profile that a runtime was built for; of the default one where any size runs."""
    info = artifact_info(runtime)
    profile = (info.batch if info is not None else None) or BatchProfile()
    largest = runtime.max_batch or profile.max
    return sorted({1, min(profile.opt, largest), largest, largest + 1})


def check_batches(runtime: Runtime, images: npt.NDArray[np.uint8], tolerance: Tolerance) -> list[Check]:
    """Check that the embedding of an image is its own, whatever the batch that it travels in and its place there.

    The largest size is one more than the profile's, so that it has to be split. Each size is run twice, in order and rotated by
    one: a graph that mixes rows, drops the last one or is off by one shows, even where each batch by itself looks right.
    Images, (n, 3, H, W) uint8 RGB, are taken again from the start where a batch is larger.
    """

    def wrong_rows(size: int, shape: tuple[int, ...]) -> list[Check]:
        missing = abs(size - (shape[0] if shape else 0)) or 1
        return [judge("batch", "wrong rows", missing, "<=", _ROWS, f"a batch of {size} gave an array of shape {shape}")]

    sizes = batch_sizes(runtime)
    distinct = np.ascontiguousarray(images[: sizes[-1]])
    alone = np.concatenate([runtime.run(distinct[i : i + 1]) for i in range(len(distinct))])
    if alone.shape != (len(distinct), runtime.embed_dim):
        return wrong_rows(1, alone.shape)
    worst, worst_size = 0.0, 1
    for size in sizes[1:]:
        order = np.arange(size) % len(distinct)
        for places in (order, np.roll(order, 1)):
            rows = runtime.run(np.ascontiguousarray(distinct[places]))
            if rows.shape != (size, runtime.embed_dim):
                return wrong_rows(size, rows.shape)
            difference = float(np.abs(rows.astype(np.float64) - alone[places]).max())
            if not difference <= worst:  # NaN counts as worse
                worst, worst_size = difference, size
    note = f"batches of {', '.join(map(str, sizes))}; worst at {worst_size}"
    return [judge("batch", "batch max abs", worst, "<=", tolerance.batch_max_abs, note)]


class Similarities(NamedTuple):
    """Similarity of every query to every gallery image by both sides, (num_queries, num_gallery) each."""

    reference: Matrix
    candidate: Matrix


def similarities(reference: Rows, candidate: Rows, num_queries: int) -> Similarities:
    """Return the inner products of the first rows with the rest, as an index computes them."""
    exact = (rows.astype(np.float64) for rows in (reference, candidate))
    return Similarities(*(rows[:num_queries] @ rows[num_queries:].T for rows in exact))


def compare_rankings(both: Similarities, tolerance: Tolerance) -> list[Check]:
    """Check the agreement of the nearest, of the k nearest, and of the whole order."""
    num_queries, num_gallery = both.reference.shape
    k = min(TOP_K, num_gallery)
    tie = tolerance.tie.value
    correlations = spearman(both.reference, without_rounding(both, tie))
    over = f"{num_queries} queries, {num_gallery} gallery images"
    note = f"Spearman, worst query {correlations.min():.6f}"
    return [
        judge("ranking", "top-1 agreement", agreement(both, 1, tie).mean(), ">=", tolerance.top1, over),
        judge("ranking", f"top-{k} agreement", agreement(both, k, tie).mean(), ">=", tolerance.top_k, over),
        judge("ranking", "rank correlation", correlations.mean(), ">=", tolerance.rank_correlation, note),
    ]


def agreement(both: Similarities, k: int, tie: float) -> Matrix:
    """Return for each query the share of the candidate's k nearest that are among the reference's k nearest, or tied with them.

    Similarities of the reference that differ by less than ``tie`` are taken for equal; ``k`` is at most the gallery's size.
    """
    chosen = np.argsort(-both.candidate, axis=1, kind="stable")[:, :k]
    kth = np.sort(both.reference, axis=1)[:, -k][:, None]
    shares: Matrix = (np.take_along_axis(both.reference, chosen, axis=1) >= kth - tie).mean(axis=1)
    return shares


def without_rounding(both: Similarities, tie: float) -> Matrix:
    """Return the candidate's similarities less what the arithmetic's own error explains of their change.

    A model with little training, or one that has collapsed, tells images apart by less than rounding moves a similarity, and
    the order of such pairs is noise in the reference itself. So each similarity is moved back towards the reference's by up to
    half of ``tie``: two that are closer than ``tie`` may change places, and whatever moved further still counts.
    """
    change = both.candidate - both.reference
    beyond: Matrix = np.sign(change) * np.maximum(np.abs(change) - tie / 2, 0)
    return both.reference + beyond


def spearman(left: Matrix, right: Matrix) -> Matrix:
    """Return Spearman's rank correlation of each row with the row of the same index, (n,); 0 where a row is constant."""
    from scipy.stats import rankdata

    first, second = (rankdata(side, axis=1) for side in (left, right))
    middle = (left.shape[1] + 1) / 2  # the mean of ranks from 1, of tied ones too
    return row_cosines(first - middle, second - middle)


def worst_pairs(both: Similarities, paths: Sequence[str], count: int) -> tuple[PairShift, ...]:
    """Return the pairs whose similarity changed most, one for each query, the worst first.

    One for each query, because a single query that went wrong would otherwise fill the list by itself.
    """
    change = np.abs(both.candidate - both.reference)
    pairs = []
    for query in np.argsort(-change.max(axis=1), kind="stable")[:count].tolist():
        item = int(change[query].argmax())
        before, after = both.reference[query], both.candidate[query]
        pairs.append(
            PairShift(
                query=query,
                gallery=len(change) + item,
                query_path=paths[query],
                gallery_path=paths[len(change) + item],
                reference_similarity=float(before[item]),
                candidate_similarity=float(after[item]),
                reference_rank=1 + int((before > before[item]).sum()),
                candidate_rank=1 + int((after > after[item]).sum()),
            )
        )
    return tuple(pairs)


def sample_pairs(both: Similarities, count: int) -> Rows:
    """Return (n, 2) pairs of similarities for a picture: the ten largest changes, and others at random up to ``count``."""
    pairs = np.stack([both.reference.ravel(), both.candidate.ravel()], axis=1).astype(np.float32)
    if len(pairs) <= count:
        return pairs
    largest = np.argsort(-np.abs(pairs[:, 1] - pairs[:, 0]), kind="stable")[:10]
    others = np.random.default_rng(0).choice(len(pairs), count - len(largest), replace=False)
    return pairs[np.union1d(largest, others)]


def compare_retrieval(reference: RankingResult, candidate: RankingResult, tolerance: Tolerance) -> list[Check]:
    """Check the change of the figures; a rise counts like a fall: a file that ranks otherwise is not the model."""
    one_query = Limit(1 / reference.num_queries, f"one of {reference.num_queries} queries: the figure has no finer step")
    checks = []
    for key, name in RATES.items():
        limit: Limit = getattr(tolerance, key)
        if key == "rank1":
            limit = max(limit, one_query)
        before, after = getattr(reference, key), getattr(candidate, key)
        # Rates are quotients of whole numbers: one query more or less must not miss its own limit by the last bit.
        slack = Limit(limit.value + 1e-12, limit.reason)
        note = f"{100 * before:.2f} -> {100 * after:.2f}"
        checks.append(judge("retrieval", f"change of {name}", abs(after - before), "<=", slack, note))
    return checks


def some_identities(dataset: ReIDDataset, num_ids: int | None, seed: int) -> ReIDDataset:
    """Return the images of so many identities, at least 2, drawn from those that have a query; None keeps all of them."""
    if num_ids is None:
        return dataset
    if num_ids < 2:
        raise UsageError(f"retrieval needs at least 2 identities, got {num_ids}")
    known = np.setdiff1d(dataset.query.pids, (JUNK_PID, DISTRACTOR_PID))
    if num_ids >= len(known):
        return dataset
    chosen = set(np.random.default_rng(seed).choice(known, num_ids, replace=False).tolist())

    def part(split: Split) -> Split:
        return Split(split.name, [sample for sample in split if sample.pid in chosen])

    note = f"{num_ids} of {len(known)} query identities, no distractors, seed {seed}"
    return replace(dataset, query=part(dataset.query), gallery=part(dataset.gallery), notes=(*dataset.notes, note))

"""The metrics straight from embeddings: distances are computed in blocks of queries, ranked and forgotten."""

from typing import Literal, get_args

import torch

from hat.errors import UsageError
from hat.metrics.inputs import Labels, Matrix, check_count, check_embedding_pair, check_label_pairs
from hat.metrics.ranking import RankingAccumulator, RankingResult

Metric = Literal["cosine", "euclidean"]

_GALLERY_ROWS = 8192
"""Gallery embeddings read at once: what a float16 or memory-mapped gallery costs in copies is this many rows."""


def evaluate_embeddings(
    query_embeddings: Matrix,
    gallery_embeddings: Matrix,
    query_pids: Labels,
    query_camids: Labels,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    metric: Metric = "cosine",
    max_rank: int = 50,
    block_bytes: int = 2**28,
) -> RankingResult:
    """Evaluate the ranking that embeddings give, in bounded memory, under the protocol of `hat.metrics.ranking`.

    The result is that of `hat.evaluate_ranking` on the matrix of all distances. The two may differ where distances agree to the
    last bits: a matrix product sums in an order that depends on its shapes, so that a near tie of one block shape is
    an exact tie, or the opposite order, of another. Exact ties are resolved by gallery index here too.

    Args:
        query_embeddings: (num_query, embed_dim) float16, bfloat16, float32 or float64; NumPy (memory-mapped too) or torch.
        gallery_embeddings: (num_gallery, embed_dim), likewise.
        query_pids: Identity of each query, (num_query,) integers.
        query_camids: Camera of each query, (num_query,) integers.
        gallery_pids: Identity of each gallery image, (num_gallery,) integers; -1 is junk.
        gallery_camids: Camera of each gallery image, (num_gallery,) integers.
        metric: ``"cosine"`` ranks by 1 - the product of rows scaled to unit length; ``"euclidean"`` by the Euclidean distance
            of the rows as they are (its square, which ranks alike). Computed in float64 where an input is float64, else in
            float32.
        max_rank: Length of the CMC curve; cut to the number of ranked gallery images where they are fewer.
        block_bytes: Size of a block of distances. The peak of memory is the embeddings and two or three times this.

    Returns:
        The metrics, with counts of queries that were counted and left out.

    Raises:
        UsageError: A shape, type or option is wrong, a value is NaN or infinite, or a row cannot be scaled to unit length.
        DataError: No query has a match in the gallery, so that no metric exists.
    """
    if metric not in get_args(Metric):
        raise UsageError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    queries, gallery = check_embedding_pair(query_embeddings, gallery_embeddings)
    dtype = torch.float64 if queries.is_float64 or gallery.is_float64 else torch.float32
    accumulator = RankingAccumulator(
        *check_label_pairs(query_pids, query_camids, queries.num_rows, "query"),
        *check_label_pairs(gallery_pids, gallery_camids, gallery.num_rows, "gallery"),
        max_rank=max_rank,
    )
    measure = cosine_distances if metric == "cosine" else squared_distances
    nonzero = metric == "cosine"
    # The gallery is read in parts, and each part for every block of queries again: a copy of the whole may not fit.
    parts = slices(gallery.num_rows, _GALLERY_ROWS)
    gallery_squares = [gallery.squared_lengths(part.start, part.stop, dtype, nonzero=nonzero) for part in parts]
    step = max(1, check_count(block_bytes, "block_bytes") // (gallery.num_rows * dtype.itemsize))
    for rows in slices(queries.num_rows, step):
        left = queries.read(rows.start, rows.stop, dtype)
        left_squares = queries.squared_lengths(rows.start, rows.stop, dtype, nonzero=nonzero)
        block = torch.empty(len(left), gallery.num_rows, dtype=dtype)
        for part, squares in zip(parts, gallery_squares, strict=True):
            block[:, part] = measure(left, left_squares, gallery.read(part.start, part.stop, dtype), squares)
        accumulator.add(block.numpy())
    return accumulator.result()


def slices(total: int, step: int) -> list[slice]:
    """Cut ``range(total)`` into consecutive slices of ``step``, of which the last one may be shorter."""
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def cosine_distances(
    left: torch.Tensor, left_squares: torch.Tensor, right: torch.Tensor, right_squares: torch.Tensor
) -> torch.Tensor:
    """Compute 1 - the product of rows scaled to unit length: (m, n), 0 to 2 up to rounding.

    Args:
        left: (m, embed_dim) float32 or float64 on the CPU.
        left_squares: (m,) squared Euclidean lengths of its rows, none of them 0.
        right: (n, embed_dim), likewise.
        right_squares: (n,), likewise.
    """
    return _inner_products(left / left_squares.sqrt()[:, None], right).div_(right_squares.sqrt()).neg_().add_(1)


def squared_distances(
    left: torch.Tensor, left_squares: torch.Tensor, right: torch.Tensor, right_squares: torch.Tensor
) -> torch.Tensor:
    """Compute squared Euclidean distances, (m, n), by |a|² + |b|² - 2ab; what rounding leaves under 0 is raised to 0.

    Its arguments are those of `cosine_distances`; rows may be 0.
    """
    products = _inner_products(left, right)
    return products.mul_(-2).add_(left_squares[:, None]).add_(right_squares).clamp_(min=0)


def _inner_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    # NumPy's product and not torch's: torch.set_float32_matmul_precision, which a training run lowers for speed, would change
    # ours.
    products: torch.Tensor = torch.from_numpy(left.numpy() @ right.numpy().T)
    return products

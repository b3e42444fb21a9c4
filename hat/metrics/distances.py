"""Distances between the rows of two blocks of embeddings: the only place where the metrics multiply matrices."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["Metric", "cosine_distances", "squared_distances"]

Metric = Literal["cosine", "euclidean"]


def cosine_distances(
    left: torch.Tensor, left_squares: torch.Tensor, right: torch.Tensor, right_squares: torch.Tensor
) -> torch.Tensor:
    """1 - the product of rows scaled to unit length.

    Args:
        left: (m, embed_dim) float32 or float64 on the CPU.
        left_squares: (m,) squared Euclidean lengths of its rows, none of them 0.
        right: (n, embed_dim), likewise.
        right_squares: (n,), likewise.

    Returns:
        (m, n) distances, 0 to 2 up to rounding.
    """
    return _inner_products(left / left_squares.sqrt()[:, None], right).div_(right_squares.sqrt()).neg_().add_(1)


def squared_distances(
    left: torch.Tensor, left_squares: torch.Tensor, right: torch.Tensor, right_squares: torch.Tensor
) -> torch.Tensor:
    """Squared Euclidean distances, by |a|² + |b|² - 2ab; what rounding leaves under 0 is raised to 0.

    Args:
        left: (m, embed_dim) float32 or float64 on the CPU.
        left_squares: (m,) squared Euclidean lengths of its rows.
        right: (n, embed_dim), likewise.
        right_squares: (n,), likewise.

    Returns:
        (m, n) distances of at least 0.
    """
    products = _inner_products(left, right)
    return products.mul_(-2).add_(left_squares[:, None]).add_(right_squares).clamp_(min=0)


def _inner_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    # NumPy's product and not torch's: torch.set_float32_matmul_precision, which a training run lowers for speed, would change
    # ours.
    products: torch.Tensor = torch.from_numpy(left.numpy() @ right.numpy().T)
    return products

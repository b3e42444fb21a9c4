"""What every runtime promises: pixels in, unit embeddings out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hat.preprocessing import Preprocessing

__all__ = ["Runtime"]


@runtime_checkable
class Runtime(Protocol):
    """A model that is ready to run, whatever runs it.

    Attributes:
        name: What it is, for tables: ``"torch fp32 cpu"``.
        embed_dim: Width of an embedding.
        preprocessing: How images become the input of `run`.
        max_batch: The largest batch that `run` takes; None where there is no limit. `hat.Embedder` splits larger ones.
    """

    name: str
    embed_dim: int
    preprocessing: Preprocessing
    max_batch: int | None

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed one batch.

        Args:
            images: (B, 3, H, W) uint8 RGB, with (H, W) of ``preprocessing``, B of at least 1 and at most ``max_batch``.

        Returns:
            (B, embed_dim) float32, rows of unit length.
        """
        ...

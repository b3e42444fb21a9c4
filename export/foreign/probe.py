"""What a foreign graph became, and probe images that show whether it still computes the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.io.artifact import ArtifactPrecision

from .model import Layout

_SAME, _SAME_ROUNDED = 1e-4, 0.05
"""Largest difference between two embeddings of one image, alone and in a batch, in float32 and in lower precisions. int8 rounds
sums that another order of additions puts beside a half the other way: 0.01 was seen."""

_NUM_PROBES = 8


Run = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Surrounded:
    """A foreign graph that takes uint8 RGB images and gives unit vectors, in memory.

    Attributes:
        graph: The graph of its library.
        size: (height, width) of its input.
        embed_dim: Width of an embedding.
        batch: The one batch size that it takes; None where it takes any.
        precision: In which it computes.
        layout: Order of the dimensions inside.
        output: Name of the output that became the embedding.
        source_sha256: Hash of the files that it came from.
        versions: Of the libraries that made it.
        details: Why the batch is fixed, where it is.
        run: Embeds (B, 3, H, W) uint8 RGB, B being ``batch`` where that is fixed.
    """

    graph: Any
    size: tuple[int, int]
    embed_dim: int
    batch: int | None
    precision: ArtifactPrecision
    layout: Layout
    output: str
    source_sha256: str
    versions: dict[str, str]
    details: dict[str, str]
    run: Run


def probe_images(size: tuple[int, int], count: int = _NUM_PROBES) -> npt.NDArray[np.uint8]:
    """Draw (count, 3, H, W) uint8 images of soft random colors, the same at every call."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
    height, width = size
    large = [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in small]
    return np.ascontiguousarray(np.stack(large).transpose(0, 3, 1, 2))


def is_same(rows: npt.NDArray[np.float32], others: npt.NDArray[np.float32], precision: ArtifactPrecision) -> bool:
    """Return whether two arrays of embeddings are of the same images, up to rounding."""
    limit = _SAME if precision == "fp32" else _SAME_ROUNDED
    return rows.shape == others.shape and bool(np.abs(rows - others).max() < limit)


def has_own_rows(run: Run, size: tuple[int, int], precision: ArtifactPrecision) -> bool:
    """Return whether a graph gives one embedding for every image of a batch, the one that it gives the image alone."""
    images = probe_images(size, 3)
    together, alone = run(images), np.concatenate([run(image[None]) for image in images])
    return len(together) == len(images) and is_same(together, alone, precision)


def why_fixed(reasons: Sequence[str]) -> dict[str, str]:
    """Return the details that say why a batch is fixed; none where it is not."""
    return {"batch_fixed_because": "; ".join(reasons)} if reasons else {}

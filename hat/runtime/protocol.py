"""What every runtime promises: pixels in, unit embeddings out."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo
from hat.preprocessing import Preprocessing


@runtime_checkable
class Runtime(Protocol):
    """A model that is ready to run, whatever runs it.

    Attributes:
        name: What it is, for tables: ``"torch fp32 cpu"``. Nothing is read out of it.
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


def check_images(images: npt.NDArray[np.uint8], size: tuple[int, int]) -> None:
    """Refuse a batch that is not (B, 3, H, W) uint8 with (H, W) of ``size``.

    Raises:
        UsageError: It is of another shape or type.
    """
    if images.ndim != 4 or images.shape[1:] != (3, *size) or images.dtype != np.uint8:
        raise UsageError(f"expected images (B, 3, {size[0]}, {size[1]}) uint8, got {images.shape} {images.dtype}")


def fixed_batch(info: ArtifactInfo) -> int | None:
    """Return the one batch size that a file takes; None where it takes several."""
    return info.batch.max if info.batch is not None and info.batch.min == info.batch.max else None


def run_in_pieces(
    run: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]], images: npt.NDArray[np.uint8], size: int
) -> npt.NDArray[np.float32]:
    """Run a batch of any size through a model that takes one size alone; the last piece is filled up with its last image.

    Args:
        run: Embeds exactly ``size`` images.
        images: (B, 3, H, W), B of at least 1.
        size: Images in a piece.
    """
    pieces = []
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
        pieces.append(run(filled)[: len(piece)])
    return np.concatenate(pieces)


def warm_up(runtime: Runtime) -> None:
    """Have a runtime do now what it does once for each batch size: capture CUDA graphs, choose or compile kernels.

    Raises:
        WorkError: It fails.
    """
    if prepare := getattr(runtime, "warm_up", None):
        prepare()


def runtime_device(runtime: Runtime) -> str | None:
    """Return ``"cpu"`` or ``"cuda"`` where a runtime's ``device_type`` says so; None for other devices and other machines."""
    kind = getattr(runtime, "device_type", None)
    return kind if kind in ("cpu", "cuda") else None


def runtime_info(runtime: Runtime) -> ArtifactInfo:
    """Return what a runtime runs: architecture, preprocessing, precision and the fingerprint that a gallery is bound to.

    The first call on a checkpoint hashes its weights, which takes up to a second.

    Raises:
        UsageError: The runtime does not say; those of this package all do.
    """
    info = getattr(runtime, "info", None)
    if not isinstance(info, ArtifactInfo):
        raise UsageError(f"{runtime.name} does not say which model it runs: a runtime of hat.runtime is needed here")
    return info

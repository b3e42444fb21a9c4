"""Interface of every runtime, pixels in and unit embeddings out, and the steps that those of files share."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo, InputType
from hat.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

Run = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]


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
    """Refuse a batch that is not (B, 3, H, W) uint8 with (H, W) of ``size``."""
    if images.ndim != 4 or images.shape[1:] != (3, *size) or images.dtype != np.uint8:
        raise UsageError(f"expected images (B, 3, {size[0]}, {size[1]}) uint8, got {images.shape} {images.dtype}")


def embed_images(run: Run, images: npt.NDArray[np.uint8], info: ArtifactInfo) -> npt.NDArray[np.float32]:
    """Embed images, as `Runtime.run` does, by what runs a file: it is given what the file takes, contiguous.

    No images give no rows; where the file takes one batch size alone, `run` is given only that. Images of another shape or type
    are a `UsageError`.
    """
    check_images(images, info.preprocessing.size)
    if not len(images):
        return np.empty((0, info.embed_dim), dtype=np.float32)
    batch, size = model_input(images, info.input_type), fixed_batch(info)
    return run(batch) if size in (None, len(batch)) else run_in_pieces(run, batch, size)


def model_input(images: npt.NDArray[np.uint8], input_type: InputType) -> npt.NDArray[Any]:
    """Return images (B, 3, H, W) as a file takes them, contiguous; see `ArtifactInfo.input_type`."""
    if input_type == "uint8":
        return np.ascontiguousarray(images)
    pixels = images.astype(np.float32, order="C")
    if input_type == "normalized":
        mean, std = (np.array(value, np.float32).reshape(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = (pixels / np.float32(255) - mean) / std
    return pixels


def fixed_batch(info: ArtifactInfo) -> int | None:
    """Return the one batch size that a file takes; None where it takes several."""
    return info.batch.max if info.batch is not None and info.batch.min == info.batch.max else None


def run_in_pieces(run: Run, images: npt.NDArray[Any], size: int) -> npt.NDArray[np.float32]:
    """Run images (B, 3, H, W), B of at least 1, by ``size`` at a time; the last piece is filled up with its last image."""
    pieces = []
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)])
        pieces.append(run(filled)[: len(piece)])
    return np.concatenate(pieces)


def warm_up(runtime: Runtime) -> None:
    """Have a runtime do now what it does once for each batch size: capture CUDA graphs, choose or compile kernels."""
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

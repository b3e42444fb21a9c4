"""The front door: images of any kind in, embeddings out, whatever runs the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hat.data.images import read_image, to_rgb
from hat.data.loading import iterate_batches
from hat.errors import UsageError
from hat.preprocessing import Preprocessing
from hat.runtime import Runtime, open_runtime
from hat.runtime.protocol import runtime_device
from hat.runtime.torch_runtime import Precision

T = TypeVar("T")

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
"""A path, a PIL image, or an (H, W, 3) uint8 RGB array."""


class Embedder:
    """A model that embeds images, whatever runs it.

    Args:
        runtime: What runs the model.
        batch_size: Images per run of the model; lowered to what the runtime takes.
        num_workers: Threads that decode and resize files; None is one for each core.
    """

    def __init__(self, runtime: Runtime, *, batch_size: int = 32, num_workers: int | None = None) -> None:
        if isinstance(runtime, str | os.PathLike):
            raise UsageError(f"expected a runtime, got a path: hat.Embedder.open({os.fspath(runtime)!r})")
        if batch_size < 1:
            raise UsageError(f"batch_size is at least 1, got {batch_size}")
        self.runtime = runtime
        self.preprocessing: Preprocessing = runtime.preprocessing
        self.embed_dim: int = runtime.embed_dim
        self.batch_size = min(batch_size, runtime.max_batch or batch_size)
        self.num_workers = num_workers

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> Embedder:
        """Open a trained model by its path.

        Args:
            path: See `hat.runtime.open_runtime`.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes a CUDA device where there is one.
            precision: Of a checkpoint: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
            batch_size: See `Embedder`, as for `num_workers`.

        Raises:
            CheckpointError: There is nothing at the path that can be opened.
            UsageError: The device is not there, or the precision is unknown.
        """
        return cls(open_runtime(path, device, precision), batch_size=batch_size, num_workers=num_workers)

    def embed(self, images: Iterable[ImageLike], *, flip: bool = False) -> npt.NDArray[np.float32]:
        """Embed images.

        Args:
            images: Of any kinds of `ImageLike`, mixed as you like.
            flip: Embed each image and its mirror image and take the mean, scaled to unit length again.

        Returns:
            (n, embed_dim) float32, rows of unit length, in the order of the images; (0, embed_dim) for none.

        Raises:
            ImageError: A file is no image that can be used.
            UsageError: An item is none of the accepted kinds.
        """
        items = _listed(images)
        pixels = (self.preprocessing.resize_image(_as_image(item)).transpose(2, 0, 1) for item in items)
        return self._run(_stack(pixels, self.batch_size), len(items), flip, None)

    def embed_paths(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        flip: bool = False,
        advance: Callable[[int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Embed files as `embed` does, decoded by threads: ahead of a model on a GPU, in turns with one on the CPU.

        Args:
            paths: Files, or members of zip files as ``archive.zip!member.jpg``.
            flip: See `embed`.
            advance: Called with the number of images that were just embedded.
        """
        names = [os.fspath(path) for path in _listed(paths)]
        in_turns = runtime_device(self.runtime) == "cpu"  # where the model needs all cores
        batches = iterate_batches(names, self.preprocessing, self.batch_size, num_workers=self.num_workers, in_turns=in_turns)
        return self._run((batch.numpy() for batch in batches), len(names), flip, advance)

    def _run(
        self, batches: Iterable[npt.NDArray[np.uint8]], count: int, flip: bool, advance: Callable[[int], None] | None
    ) -> npt.NDArray[np.float32]:
        embeddings = np.empty((count, self.embed_dim), dtype=np.float32)
        done = 0
        for batch in batches:
            rows = self.runtime.run(batch)
            if flip:
                rows = rows + self.runtime.run(np.ascontiguousarray(batch[..., ::-1]))
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            embeddings[done : done + len(rows)] = rows
            done += len(rows)
            if advance is not None:
                advance(len(rows))
        return embeddings


def _listed(images: Iterable[T]) -> list[T]:
    if isinstance(images, str | os.PathLike | Image.Image):
        raise UsageError("expected a sequence of images, got one: put it in a list")
    return list(images)


def _as_image(item: ImageLike) -> Image.Image:
    """Decode a path, check an array, and read a PIL image as a file with the same content is read."""
    if isinstance(item, Image.Image):
        return to_rgb(item)
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or 0 in item.shape:
            raise UsageError(f"expected an array of shape (H, W, 3) and type uint8, RGB; got {item.shape} {item.dtype}")
        return Image.fromarray(np.ascontiguousarray(item), mode=None)
    if isinstance(item, str | os.PathLike):
        return read_image(item)
    raise UsageError(f"expected a path, a PIL image or an (H, W, 3) uint8 array, got {type(item).__name__}")


def _stack(pixels: Iterator[npt.NDArray[np.uint8]], batch_size: int) -> Iterator[npt.NDArray[np.uint8]]:
    while batch := list(islice(pixels, batch_size)):
        yield np.stack(batch)

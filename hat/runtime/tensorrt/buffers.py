"""Memory that an engine reads and writes: page-locked on the host, fixed on the device, and one stream for the copies."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch


class EngineBuffers:
    """Buffers for the largest batch of an engine; their addresses never change, which a captured CUDA graph relies on.

    Args:
        device: The CUDA device. A CPU device works too, without page locking and streams: contract tests run on one.
        max_batch: The largest batch.
        image_size: (height, width).
        embed_dim: Width of an embedding.
        input_type: Type of the engine's input; images come as uint8 and are widened on the device.
        scratch_bytes: What the engine needs between its layers; all its contexts share it.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        max_batch: int,
        image_size: tuple[int, int],
        embed_dim: int,
        input_type: torch.dtype,
        scratch_bytes: int,
    ) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None
        shape = (max_batch, 3, *image_size)
        self.host_images = torch.zeros(shape, dtype=torch.uint8, pin_memory=on_gpu)
        self.pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.images = self.pixels if input_type == torch.uint8 else torch.zeros(shape, dtype=input_type, device=device)
        self.embeddings = torch.zeros((max_batch, embed_dim), dtype=torch.float32, device=device)
        self.host_embeddings = torch.zeros((max_batch, embed_dim), dtype=torch.float32, pin_memory=on_gpu)
        self.scratch = torch.empty(max(scratch_bytes, 1), dtype=torch.uint8, device=device)
        if on_gpu:
            torch.cuda.synchronize(device)  # the zeros are written on another stream than the one that is used from here on

    @property
    def stream_handle(self) -> int:
        """What TensorRT takes as a stream."""
        return 0 if self.stream is None else int(self.stream.cuda_stream)

    def on_stream(self) -> AbstractContextManager[object]:
        """Make the stream the current one of torch."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def synchronize(self) -> None:
        """Wait until all that was asked for is done."""
        if self.stream is not None:
            self.stream.synchronize()

    def upload(self, images: npt.NDArray[np.uint8]) -> None:
        """Start the copy of (n, 3, H, W) uint8 images to the device."""
        count = len(images)
        self.host_images[:count].copy_(torch.from_numpy(np.ascontiguousarray(images)))
        self.pixels[:count].copy_(self.host_images[:count], non_blocking=True)
        if self.images is not self.pixels:
            self.images[:count].copy_(self.pixels[:count])

    def download(self, count: int) -> npt.NDArray[np.float32]:
        """Wait for ``count`` embeddings: (n, embed_dim) float32, a view that the next batch overwrites."""
        self.host_embeddings[:count].copy_(self.embeddings[:count], non_blocking=True)
        self.synchronize()
        return self.host_embeddings[:count].numpy()

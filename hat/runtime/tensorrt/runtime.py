"""TensorRT 10, TensorRT 11 and TensorRT for RTX as a runtime, through the one module that knows their differences."""

import logging
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import CheckpointError, UsageError, WorkError, first_line
from hat.io.artifact import INPUT_NAME, OUTPUT_NAME, ArtifactInfo, BatchProfile
from hat.io.atomic_output import atomic_output
from hat.runtime.protocol import check_images
from hat.runtime.tensorrt.engine import engine_metadata, engine_mismatch, read_engine_info, runtime_cache_path
from hat.runtime.tensorrt.library import TensorRT, load_tensorrt

_LOG = logging.getLogger(__name__)


class EngineBuffers:
    """Buffers for the largest batch of an engine; their addresses never change, which a captured CUDA graph relies on.

    Images come as uint8 and are widened on the device where the engine takes floats. All contexts share the scratch memory that
    the engine needs between its layers. A CPU works too, without page locking and streams: contract tests run on one.
    """

    def __init__(self, device: torch.device, max_batch: int, info: ArtifactInfo, scratch_bytes: int) -> None:
        on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None
        shape, rows = (max_batch, 3, *info.preprocessing.size), (max_batch, info.embed_dim)
        self.host_images = torch.zeros(shape, dtype=torch.uint8, pin_memory=on_gpu)
        self.pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.images = self.pixels if info.input_type == "uint8" else torch.zeros(shape, dtype=torch.float32, device=device)
        self.embeddings = torch.zeros(rows, dtype=torch.float32, device=device)
        self.host_embeddings = torch.zeros(rows, dtype=torch.float32, pin_memory=on_gpu)
        self.scratch = torch.empty(max(scratch_bytes, 1), dtype=torch.uint8, device=device)
        if on_gpu:
            torch.cuda.synchronize(device)  # the zeros are written on another stream than the one that is used from here on

    @property
    def stream_handle(self) -> int:
        """Handle of the CUDA stream, as TensorRT takes it."""
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


class TensorRTRuntime:
    """Runs an engine of this package. Calls may come from several threads and take turns: buffers and contexts are one set.

    An engine is loaded only where its sidecar says that it belongs: same product and version, the GPU that it was built for,
    the very file that was built. An engine is native code for a GPU: load none from a source whose programs you would not run.

    Batches are filled up to a few sizes (`batch_buckets`): each is prepared once, by a captured CUDA graph that saves the
    launch of every kernel, and for RTX by kernels that are compiled for it and kept in ``NAME.cache`` beside the engine, so
    that the next process finds them.

    A device of None is the current CUDA device, a `module` of None the library that the sidecar names. Where a driver does not
    capture an engine, a warning says so and it runs without graphs, as with a false ``cuda_graph``.
    """

    max_batch: int | None

    batch_sizes: tuple[int, ...]
    """The sizes that are run, ascending."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str | None = None,
        *,
        module: TensorRT | None = None,
        cuda_graph: bool = True,
    ) -> None:
        path = Path(path)
        self.info = read_engine_info(path)
        self.metadata = engine_metadata(self.info, str(path))
        self.trt = module if module is not None else load_tensorrt(self.metadata.variant)
        self.device = self.trt.device(device)
        if reason := engine_mismatch(path, self.metadata, self.trt, self.trt.find_gpu(self.device.index)):
            raise CheckpointError(f"{path} does not belong here: {reason}. Export it again on this machine")

        profile = self.info.batch or BatchProfile()
        self.path, self.max_batch = path, profile.max
        self.batch_sizes = batch_buckets(profile)
        self.preprocessing, self.embed_dim = self.info.preprocessing, self.info.embed_dim
        self.device_type = self.device.type
        self.name = f"{self.metadata.variant} {self.info.precision} {self.device.type}"
        self.lock = threading.Lock()
        # TensorRT works on the current device of the thread; the runtime outlives what was loaded by it.
        with self._current_device():
            self.runtime = self.trt.runtime(host_code=self.metadata.version_compatible)
            self.engine = self.trt.deserialize(self.runtime, path.read_bytes(), str(path))
            self._check_tensors(path)
            self.buffers = self._allocate(profile.max)
            self.captures = cuda_graph and not self.trt.is_rtx and self.device.type == "cuda"
            settings, self.cache = self._rtx_settings(cuda_graph)
            # A captured graph belongs to the state of its context, so that every batch size with a graph has its own; they
            # share one block of scratch memory, which is enough because they never run at the same time.
            contexts = self.batch_sizes if self.captures else self.batch_sizes[-1:]
            self.contexts = {size: self._bind(self.trt.context(self.engine, str(path), settings)) for size in contexts}
            self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._prepared: set[int] = set()

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed a batch of any size, 0 too; see `hat.runtime.Runtime.run`.

        One above the profile is split, others are filled up to the next of `batch_sizes`. An engine that fails is a `WorkError`
        in its own words.
        """
        check_images(images, self.preprocessing.size)
        results = np.empty((len(images), self.embed_dim), dtype=np.float32)
        largest = self.batch_sizes[-1]
        with self.lock, self._current_device(), self.buffers.on_stream():
            for start in range(0, len(images), largest):
                part = images[start : start + largest]
                size = next(size for size in self.batch_sizes if size >= len(part))
                self.buffers.upload(part)
                self._prepare(size)
                self._execute(size)
                results[start : start + len(part)] = self.buffers.download(len(part))
        return results

    def warm_up(self) -> None:
        """Prepare every batch size, so that no later call waits for what happens only once."""
        with self.lock, self._current_device(), self.buffers.on_stream():
            for size in self.batch_sizes:
                self._prepare(size)

    def _prepare(self, size: int) -> None:
        """Run a batch size for the first time: what is allocated, compiled or captured by it is there afterwards."""
        if size in self._prepared:
            return
        self._enqueue(size)
        self.buffers.synchronize()
        if self.captures:
            self._capture(size)
        if self.cache is not None:
            self._save_cache()
        self._prepared.add(size)

    def _capture(self, size: int) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate meanwhile (a service decodes images): only what this thread does is captured.
            with torch.cuda.graph(graph, stream=self.buffers.stream, capture_error_mode="thread_local"):
                self._enqueue(size)
        except (RuntimeError, WorkError) as error:
            self.captures = False
            self.graphs.clear()
            _LOG.warning("%s runs without CUDA graphs, which cannot be captured here: %s", self.path, first_line(error))
        else:
            self.graphs[size] = graph

    def _execute(self, size: int) -> None:
        if size in self.graphs:
            self.graphs[size].replay()
        else:
            self._enqueue(size)

    def _enqueue(self, size: int) -> None:
        context = self.contexts.get(size) or self.contexts[self.batch_sizes[-1]]
        with self.trt.listen() as messages:
            done = context.set_input_shape(INPUT_NAME, (size, 3, *self.preprocessing.size))
            done = done and context.execute_async_v3(self.buffers.stream_handle)
        if not done:
            raise WorkError(f"{self.name} failed on a batch of {size}: {messages}")

    def _bind(self, context: Any) -> Any:
        if not self.trt.is_rtx:  # RTX decides when it has compiled what it needs
            context.set_device_memory(self.buffers.scratch.data_ptr(), self.buffers.scratch.numel())
        context.set_tensor_address(INPUT_NAME, self.buffers.images.data_ptr())
        context.set_tensor_address(OUTPUT_NAME, self.buffers.embeddings.data_ptr())
        return context

    def _rtx_settings(self, cuda_graph: bool) -> tuple[Any, Any]:
        """Return how RTX is to run the engine, and its cache of compiled kernels, filled from the file where that fits."""
        if not self.trt.is_rtx:
            return None, None
        settings = self.engine.create_runtime_config()
        # Compiled before the first answer and not behind it: answers do not change while a service runs.
        settings.dynamic_shapes_kernel_specialization_strategy = (
            self.trt.library.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        if cuda_graph:
            settings.cuda_graph_strategy = self.trt.library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = settings.create_runtime_cache()
        try:
            content = runtime_cache_path(self.path).read_bytes()
        except OSError:
            content = b""
        with self.trt.listen():  # that of another driver or GPU is refused, and written anew
            if content:
                cache.deserialize(content)
        settings.set_runtime_cache(cache)
        return settings, cache

    def _save_cache(self) -> None:
        try:
            with atomic_output(runtime_cache_path(self.path), overwrite=True) as temporary:
                temporary.write_bytes(bytes(memoryview(self.cache.serialize())))
        except (OSError, WorkError, UsageError) as error:  # a folder that is read-only costs time and nothing else
            _LOG.warning("%s: compiled kernels cannot be kept, every start compiles them again: %s", self.path, error)
            self.cache = None

    def _allocate(self, max_batch: int) -> EngineBuffers:
        try:
            scratch_bytes = 0 if self.trt.is_rtx else int(self.engine.device_memory_size_v2)
            return EngineBuffers(self.device, max_batch, self.info, scratch_bytes)
        except torch.OutOfMemoryError:
            raise WorkError(f"{self.path}: no memory is left on {self.device} for batches of {max_batch}") from None

    def _check_tensors(self, path: Path) -> None:
        """Check that the engine has the tensors that its sidecar says."""
        names = {self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)}
        if names != {INPUT_NAME, OUTPUT_NAME}:
            raise CheckpointError(
                f"{path}: expected the tensors {INPUT_NAME} and {OUTPUT_NAME}, it has {', '.join(sorted(names))}"
            )
        element = "UINT8" if self.info.input_type == "uint8" else "FLOAT"
        expected = {INPUT_NAME: (element, -1, 3, *self.preprocessing.size), OUTPUT_NAME: ("FLOAT", -1, self.embed_dim)}
        for name, (kind, *shape) in expected.items():
            dims, dtype = [*self.engine.get_tensor_shape(name)], self.engine.get_tensor_dtype(name).name
            # A profile of one single size may be built into the engine.
            if dtype != kind or dims[1:] != shape[1:] or dims[0] not in (-1, self.batch_sizes[-1]):
                raise CheckpointError(f"{path}: {name} is {dtype} {dims}, its sidecar says {kind} {shape}")

    def _current_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def batch_buckets(profile: BatchProfile) -> tuple[int, ...]:
    """Batch sizes that are run: the smallest, the largest, the one that was tuned for, and the powers of two between."""
    powers = {2**exponent for exponent in range(profile.max.bit_length())}
    return tuple(sorted({size for size in powers if size >= profile.min} | {profile.min, profile.opt, profile.max}))

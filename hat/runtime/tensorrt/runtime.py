"""TensorRT 10, TensorRT 11 and TensorRT for RTX as a runtime, through the one module that knows their differences."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import CheckpointError, UsageError, WorkError
from hat.io.artifact import BatchProfile
from hat.runtime.tensorrt.buffers import EngineBuffers
from hat.runtime.tensorrt.engine import EngineFacts, engine_facts, engine_mismatch, read_engine_info
from hat.runtime.tensorrt.library import TensorRT, load_tensorrt, said

__all__ = ["TensorRTRuntime"]

INPUT_NAME, OUTPUT_NAME = "images", "embeddings"


class TensorRTRuntime:
    """Runs an engine of this package. Calls may come from several threads and take turns: buffers and context are one set.

    An engine is loaded only where its side file says that it belongs: same product and version, the GPU that it was built for,
    the very file that was built. An engine is native code for a GPU: load none from a source whose programs you would not run.

    Args:
        path: The engine, with its side file ``NAME.json`` beside it.
        device: ``"cuda"``, ``"cuda:1"``; None takes the current CUDA device.
        module: The TensorRT library; None imports the one that the side file names.
        cuda_graph: Replay captured CUDA graphs, which saves the launch of every kernel. RTX captures by itself; otherwise there
            is a graph and a context for the smallest, the tuned and the largest batch, and others are filled up to the next.
        rebuild: Called with the path when the engine does not belong here; `hat.export.rebuild_engine` builds it anew from the
            ONNX kept beside it. None refuses such an engine.

    Attributes:
        info: The facts about the engine.
        facts: Those that only an engine has.

    Raises:
        CheckpointError: The engine or its side file is missing, cannot be read, or does not belong here; the reason is named.
        UsageError: There is no such CUDA device.
        WorkError: There is not enough memory on the device.
        MissingExtraError: The library is not installed.
    """

    max_batch: int | None

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str | None = None,
        *,
        module: TensorRT | None = None,
        cuda_graph: bool = False,
        rebuild: Callable[[Path], object] | None = None,
    ) -> None:
        path = Path(path)
        self.info = read_engine_info(path)
        self.facts = engine_facts(self.info, str(path))
        self.trt = module if module is not None else load_tensorrt(self.facts.flavor)
        self.device = self.trt.device(device)
        self._check(path, rebuild)

        profile = self.info.batch or BatchProfile()
        self.max_batch = profile.max
        self.profile = profile
        self.preprocessing = self.info.preprocessing
        self.embed_dim = self.info.embed_dim
        self.device_type = self.device.type
        self.name = f"{self.facts.flavor} {self.info.precision} {self.device.type}"
        self.lock = threading.Lock()
        # TensorRT works on the current device of the thread; the runtime outlives what was loaded by it.
        with self._current_device():
            self.runtime = self.trt.runtime(host_code=self.facts.version_compatible)
            self.engine = self.trt.deserialize(self.runtime, path.read_bytes(), str(path))
            self._check_tensors(path)
            self.buffers = self._allocate(path)
            self.captures = cuda_graph and not self.trt.is_rtx
            sizes = sorted({profile.min, profile.opt, profile.max}) if self.captures else [profile.max]
            # A captured graph belongs to the state of its context, so that every batch size with a graph has its own.
            self.contexts = {
                size: self._bind(self.trt.context(self.engine, str(path), cuda_graph=cuda_graph)) for size in sizes
            }
            self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed a batch of any size; one above the profile is split, one below it is filled up.

        Args:
            images: (B, 3, H, W) uint8 RGB, with (H, W) of ``preprocessing``; B may be 0.

        Returns:
            (B, embed_dim) float32, rows of unit length.

        Raises:
            UsageError: The images are of another shape or type.
            WorkError: The engine fails; its own messages say why.
        """
        expected = (3, *self.preprocessing.size)
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
            raise UsageError(f"expected images (B, {', '.join(map(str, expected))}) uint8, got {images.shape} {images.dtype}")
        results = np.empty((len(images), self.embed_dim), dtype=np.float32)
        with self.lock, self._current_device():
            for start in range(0, len(images), self.profile.max):
                part = images[start : start + self.profile.max]
                results[start : start + len(part)] = self._run_part(part)
        return results

    def _run_part(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with self.buffers.on_stream():
            self.buffers.upload(images)
            if self.captures:
                self._replay(min(size for size in self.contexts if size >= len(images)))
            else:
                self._enqueue(self.contexts[self.profile.max], max(len(images), self.profile.min))
            return self.buffers.download(len(images))

    def _replay(self, size: int) -> None:
        graph = self.graphs.get(size)
        if graph is None:
            self._enqueue(self.contexts[size], size)  # a first run allocates, which a capture does not allow
            self.buffers.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.buffers.stream):
                self._enqueue(self.contexts[size], size)
            self.graphs[size] = graph
        graph.replay()

    def _enqueue(self, context: Any, size: int) -> None:
        with self.trt.listen() as heard:
            done = context.set_input_shape(INPUT_NAME, (size, 3, *self.preprocessing.size))
            done = done and context.execute_async_v3(self.buffers.stream_handle)
        if not done:
            raise WorkError(f"{self.name} failed on a batch of {size}: {said(heard)}")

    def _bind(self, context: Any) -> Any:
        context.set_tensor_address(INPUT_NAME, self.buffers.images.data_ptr())
        context.set_tensor_address(OUTPUT_NAME, self.buffers.embeddings.data_ptr())
        return context

    def _allocate(self, path: Path) -> EngineBuffers:
        try:
            return EngineBuffers(
                self.device,
                max_batch=self.profile.max,
                image_size=self.preprocessing.size,
                embed_dim=self.embed_dim,
                input_type=torch.uint8 if self.info.input_type == "uint8" else torch.float32,
            )
        except torch.OutOfMemoryError:
            raise WorkError(f"{path}: no memory is left on {self.device} for batches of {self.profile.max}") from None

    def _check(self, path: Path, rebuild: Callable[[Path], object] | None) -> None:
        """Refuse an engine that does not belong here, or have it rebuilt and look again."""
        gpu = self.trt.find_gpu(self.device.index)
        reason = engine_mismatch(path, self.facts, self.trt, gpu)
        if reason is not None and rebuild is not None:
            rebuild(path)
            self.info = read_engine_info(path)
            self.facts = engine_facts(self.info, str(path))
            reason = engine_mismatch(path, self.facts, self.trt, gpu)
        if reason is not None:
            raise CheckpointError(f"{path} does not belong here: {reason}. Export it again on this machine")
        _refuse_stripped(path, self.facts)

    def _check_tensors(self, path: Path) -> None:
        """The engine has the tensors that its side file says."""
        names = {self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)}
        if names != {INPUT_NAME, OUTPUT_NAME}:
            raise CheckpointError(
                f"{path}: expected the tensors {INPUT_NAME} and {OUTPUT_NAME}, it has {', '.join(sorted(names))}"
            )
        expected = {INPUT_NAME: (-1, 3, *self.preprocessing.size), OUTPUT_NAME: (-1, self.embed_dim)}
        for name, shape in expected.items():
            got = tuple(self.engine.get_tensor_shape(name))
            # A profile of one single size may be built into the engine.
            if got[1:] != shape[1:] or got[0] not in (-1, self.profile.max):
                raise CheckpointError(f"{path}: {name} is {got}, its side file says {shape}")
        types = {INPUT_NAME: "UINT8" if self.info.input_type == "uint8" else "FLOAT", OUTPUT_NAME: "FLOAT"}
        for name, kind in types.items():
            if (found := self.engine.get_tensor_dtype(name).name) != kind:
                raise CheckpointError(f"{path}: {name} is {found}, its side file says {kind}")

    def _current_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def _refuse_stripped(path: Path, facts: EngineFacts) -> None:
    if facts.weights == "stripped":
        raise CheckpointError(f"{path} was built without its weights: refit it first (hat.export.refit_engine)")

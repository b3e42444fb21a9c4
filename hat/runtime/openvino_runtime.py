"""OpenVINO: the device and the precision that were asked for are those that run, or an error says why not.

There is one OpenVINO for the process. Its CPU plugin gives the thread that loads it an alternate signal stack, and takes that
back when it is unloaded. Two that are unloaded in the order in which they were loaded leave the thread with memory that is
gone: the second puts back what it found, which is the first one's. Python's handlers run on that stack (``SA_ONSTACK``), so
that the next Ctrl-C would be a segmentation fault. So this package loads one plugin, NNCF its own inside `kept_signal_stack`,
and no stack stays behind.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.errors import CheckpointError, MissingExtraError, UsageError, WorkError, last_line
from hat.io.artifact import ArtifactInfo, file_sha256
from hat.io.openvino_file import check_weights, read_openvino_info, stored_as
from hat.runtime.protocol import embed_images, fixed_batch

if TYPE_CHECKING:
    import openvino


_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}

_CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}

_PRODUCTS = ("Convolution", "FullyConnected", "MatMul")
"""Layers of a compiled graph that do the work: what they compute in is what a precision means."""

_INTEGERS = ("i8", "u8")


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give the calling thread its alternate signal stack back at the end, whatever was set meanwhile."""
    if sys.platform != "linux":
        yield
        return
    before, libc = _SignalStack(), ctypes.CDLL(None)
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def openvino_core(purpose: str) -> openvino.Core:
    """Return the process's OpenVINO, which may be used from several threads; ``purpose`` is for where it is missing."""
    try:
        return _load_core()
    except ImportError:
        raise MissingExtraError("openvino", "openvino", purpose) from None


@cache
def _load_core() -> openvino.Core:
    import openvino

    with kept_signal_stack():
        core = openvino.Core()
        core.get_versions("CPU")  # loads the plugin, which the first model would do otherwise
    return core


class OpenVINORuntime:
    """Runs an ``.xml`` file of this package. Calls may come from several threads: each has its own inference request.

    The precision in which a file computes on a device is pinned: left alone, OpenVINO takes bfloat16 for a float32 file
    wherever the processor has it, and bfloat16 again when asked for float16. A file of

    - ``"fp32"`` computes in float32;
    - ``"bf16"`` in bfloat16, or is refused where the device has none;
    - ``"fp16"`` has its weights in float16, and computes in it where the device can. Processors without float16 compute it in
      float32, and `name` says so;
    - ``"int8"`` in integers, and what was left in floats in the type that was chosen when it was exported.

    The weights are beside the file in a ``.bin`` of the same name. A device is ``"cpu"``, or another one of OpenVINO:
    ``"gpu"``, ``"gpu.1"``, ``"npu"``; None and ``"auto"`` are the CPU. ``num_threads`` are the CPU's; None leaves the choice to
    OpenVINO.
    """

    max_batch: int | None = None

    execution_precision: str
    """Precision in which the floating-point layers compute on the device: ``"fp32"``, ``"bf16"`` or ``"fp16"``."""

    execution_types: Counter[str]
    """Type -> how many convolutions and matrix products of the compiled graph compute in it."""

    def __init__(self, path: str | os.PathLike[str], device: str | None = None, *, num_threads: int | None = None) -> None:
        path = Path(path)
        self.info: ArtifactInfo = read_openvino_info(path)
        core = openvino_core("running OpenVINO files")
        self.device = _choose_device(device, core)
        hint = _choose_hint(self.info, self.device, core)
        model = read_openvino_model(path, self.info, core)
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",  # every layer over all threads
        }
        if self.device == "CPU":
            # Pinned threads begin at the first core in every process: replicas of a service would share it, the others idle.
            options["ENABLE_CPU_PINNING"] = False
        if num_threads is not None:
            options["INFERENCE_NUM_THREADS"] = num_threads
        try:
            self.compiled = core.compile_model(model, self.device, options)
        except (RuntimeError, TypeError) as error:
            raise UsageError(f"{path} cannot be compiled for {self.device} by OpenVINO: {last_line(error)}") from None
        self.execution_types = _execution_types(self.compiled)
        self._check(path, hint)
        self.execution_precision = next(name for name, known in _HINTS.items() if known == hint)
        self.preprocessing, self.embed_dim = self.info.preprocessing, self.info.embed_dim
        self.device_type = self.device.lower()
        self.name = f"openvino {self.info.precision} {self.device.lower()}"
        if self.info.precision == "fp16" and hint != "f16":
            self.name = f"openvino fp16 weights, computed in {self.execution_precision} {self.device.lower()}"
        self._of_thread = threading.local()

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed one batch; see `hat.runtime.Runtime.run`. An empty batch gives an empty result."""
        return embed_images(self._embed, images, self.info)

    def _embed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self.compiled.create_infer_request()
        request: openvino.InferRequest = self._of_thread.request
        try:
            request.infer({0: batch}, share_inputs=True)
            return np.array(request.get_output_tensor(0).data, dtype=np.float32)
        except RuntimeError as error:
            raise WorkError(f"OpenVINO failed on {self.device}: {last_line(error)}") from None

    def _check(self, path: Path, hint: str) -> None:
        """Refuse it where OpenVINO took another device or another precision than was asked for."""
        devices = list(self.compiled.get_property("EXECUTION_DEVICES"))
        if devices != [self.device]:
            raise UsageError(f"{self.device} was asked for and OpenVINO took {', '.join(devices)}")
        taken = _type_name(self.compiled.get_property("INFERENCE_PRECISION_HINT"))
        expected = _INTEGERS if self.info.precision == "int8" else (hint,)
        if taken != hint or not any(self.execution_types[name] for name in expected):
            found = ", ".join(f"{count} in {name}" for name, count in self.execution_types.most_common())
            raise UsageError(
                f"{path} is {self.info.precision}, and {self.device} would compute in another precision: asked for {hint}, "
                f"got {taken}, its products are {found}; export it in another precision for this device"
            )


def _choose_device(device: str | None, core: openvino.Core) -> str:
    available = list(core.available_devices)
    if device is None or device.lower() == "auto":
        return "CPU"
    name = device.upper()
    # "GPU" is OpenVINO's name for GPU.0 where it lists several.
    if name not in available and f"{name}.0" not in available:
        raise UsageError(f"{device} was asked for and OpenVINO has {', '.join(available)}: expected one of these")
    return name if name in available else f"{name}.0"


def _choose_hint(info: ArtifactInfo, device: str, core: openvino.Core) -> str:
    capabilities = list(core.get_property(device, "OPTIMIZATION_CAPABILITIES"))
    precision = info.details.get("float_precision", "fp32") if info.precision == "int8" else info.precision
    hint = _HINTS.get(precision) if isinstance(precision, str) else None
    if hint is None:
        raise CheckpointError(f"an OpenVINO file cannot be of {precision}: expected {', '.join(_HINTS)} or int8")
    if _CAPABILITIES[hint] in capabilities:
        return hint
    if info.precision == "fp16":
        return "f32"
    raise UsageError(
        f"the file computes in {precision} and {device} has no {_CAPABILITIES[hint]} (it has {', '.join(capabilities)}): "
        "export it in fp32 or int8 for this device"
    )


def read_openvino_model(path: Path, info: ArtifactInfo, core: openvino.Core) -> openvino.Model:
    """Read the graph, and refuse it where it is not what it says of itself, or its weights are another file's."""
    weights = check_weights(path)
    # A graph would read whatever lies at its offsets in another file's weights, and rank people by noise.
    if file_sha256(weights) != info.details.get("weights_file_sha256"):
        raise CheckpointError(f"{path}: {weights.name} is another model's or was changed: copy both files of one export")
    try:
        model = core.read_model(path, weights)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read by OpenVINO: {last_line(error)}") from None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CheckpointError(f"{path}: expected one input and one output, got {len(model.inputs)} and {len(model.outputs)}")
    height, width = info.preprocessing.size
    element = "u8" if info.input_type == "uint8" else "f32"
    parts = [*model.inputs, *model.outputs]
    found = [(part.get_partial_shape().to_string(), part.get_element_type().get_type_name()) for part in parts]
    batch = fixed_batch(info) or "?"
    expected = [(f"[{batch},3,{height},{width}]", element), (f"[{batch},{info.embed_dim}]", "f32")]
    if found != expected:
        raise CheckpointError(f"{path}: its graph is not what it says of itself: expected {expected}, got {found}")
    if stored_as(model) != ("fp16" if info.precision == "bf16" else info.precision):
        raise CheckpointError(f"{path} says that it is {info.precision} and its weights are {stored_as(model)}")
    return model


def _execution_types(compiled: openvino.CompiledModel) -> Counter[str]:
    """Types of what goes into the products of a compiled graph.

    OpenVINO's own word for it, ``runtimePrecision``, names the type of the stored weights where that is the coarser one: it
    says float16 of a float32 product with float16 weights.
    """
    types: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        metadata = operation.get_rt_info()
        if "layerType" in metadata and metadata["layerType"].astype(str) in _PRODUCTS:
            types[_type_name(operation.input(0).get_element_type())] += 1
    return types


def _type_name(value: Any) -> str:
    return str(value.get_type_name())

"""Peak rate of a machine, of which a model uses a share: that of a large matrix product, in each precision.

It is the best of several libraries and sizes: one library alone would show only its authors' kernels for this processor, and a
runtime with better ones would reach more than all of it. A multiplication and an addition are two operations.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import MissingExtraError
from hat.runtime.openvino_runtime import openvino_core

_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}

_SLOW_S = 0.25
"""A product that takes longer is emulated: bfloat16 on a processor that has none runs at a hundredth of the rate."""

_CHAIN = 4
"""Products in a row where a library converts what goes in and out, so that converting does not count."""


def timed_precisions(device: str) -> tuple[str, ...]:
    """Return the precisions whose matrix product is timed: all that the device, ``"cpu"`` or ``"cuda"``, computes in."""
    # Most processors have no float16 arithmetic, and runtimes compute in float32 there.
    halves = () if device == "cpu" and "FP16" not in _openvino_capabilities() else ("fp16",)
    return ("fp32", *halves, "bf16", "int8")


def peak_of(precision: str, rates: Mapping[str, float]) -> float | None:
    """Return the rate that a model of a precision is held against; None where it was not timed.

    A coarser precision may always be computed in float32, so it is the faster of the two.
    """
    if precision == "fp16" and "fp16" not in rates:  # a processor computes it in float32
        return rates.get("fp32")
    if precision not in rates:
        return None
    return max(rates[precision], rates.get("fp32", 0.0))


def matrix_rate(precision: str, device: str, seconds: float) -> float:
    """Return the best rate of a square matrix product in operations a second, over some sizes and all libraries that are there.

    The device is ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. So many seconds of measuring are shared by all products; making them
    takes longer, at the first call.
    """
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else None
    products = _products(precision, device)
    share = seconds / sum(map(len, products))
    best = 0.0
    with torch.inference_mode():
        for sizes in products:
            for operations, product in list(sizes):
                shortest = _shortest_run(product, share, synchronize)
                best = max(best, operations / shortest)
                if shortest > _SLOW_S:  # emulated here: larger ones would take minutes and show nothing else
                    del sizes[1:]
                    break
    return best


def _shortest_run(product: Callable[[], Any], seconds: float, synchronize: Callable[[], Any] | None) -> float:
    """Return the seconds of the fastest run in so many seconds; of the first run alone where that one is slow."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < times[0] + seconds:  # the first one warms up
        start = time.perf_counter()
        product()
        if synchronize is not None:
            synchronize()
        times.append(time.perf_counter() - start)
        if times[0] > _SLOW_S:
            break
    return min(times)


@cache
def _products(precision: str, device: str) -> list[list[tuple[int, Callable[[], Any]]]]:
    """Return for each library operations and call of its products, the smallest first: kept, since libraries compile them."""
    by_size = [
        [(2 * size**3 * count, product) for count, product in matrix_products(precision, size, device)]
        for size in sorted(_SIZES[device.partition(":")[0]])
    ]
    return [list(sizes) for sizes in zip(*by_size, strict=True)]


def matrix_products(precision: str, size: int, device: str) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Yield the number of products of a call, and the call, for every library that is installed.

    The fastest differs by processor and precision. On a CPU each has as many threads as torch.
    """
    if device != "cpu" or precision != "fp16":  # torch takes a hundred times as long for it on a processor
        yield 1, _by_torch(precision, size, device)
    if device == "cpu" and precision in ("fp32", "int8"):
        yield from _by_onnx_runtime(precision, size)
    if device == "cpu" and precision != "int8" and precision.upper() in _openvino_capabilities():
        yield _CHAIN, _by_openvino(precision, size)


def _by_torch(precision: str, size: int, device: str) -> Callable[[], Any]:
    if precision == "int8":
        # On CUDA the second matrix has to lie column by column.
        left = torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device)
        right = torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device).t()
        return lambda: torch._int_mm(left, right)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    first, second = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: first @ second


def _by_onnx_runtime(precision: str, size: int) -> Iterator[tuple[int, Callable[[], Any]]]:
    try:
        import onnxruntime
        from onnx import numpy_helper, parser
    except ImportError:
        return
    rng = np.random.default_rng(0)
    left: npt.NDArray[Any]
    right: npt.NDArray[Any]
    if precision == "fp32":
        operator, given, made = "MatMul", "float", "float"
        left, right = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    else:
        operator, given, made = "MatMulInteger", "uint8", "int32"
        left = rng.integers(0, 256, (size, size), dtype=np.uint8)
        right = rng.integers(-127, 128, (size, size), dtype=np.int8)
    graph = f"product ({given}[{size},{size}] a) => ({made}[{size},{size}] y) {{ y = {operator}(a, b) }}"
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {graph}')
    model.graph.initializer.append(numpy_helper.from_array(right, "b"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that go on looking for work would take the cores from the library that comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    yield 1, lambda: session.run(None, {"a": left})


def _openvino_capabilities() -> list[str]:
    try:
        core = openvino_core("measuring")
    except MissingExtraError:
        return []
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _by_openvino(precision: str, size: int) -> Callable[[], Any]:
    import openvino
    from openvino import opset13

    rng = np.random.default_rng(0)
    left = rng.standard_normal((size, size), dtype=np.float32)
    start = opset13.parameter([size, size], openvino.Type.f32)
    product = start
    for _ in range(_CHAIN):
        right = rng.standard_normal((size, size), dtype=np.float32) / np.float32(size**0.5)  # values keep their size
        product = opset13.matmul(product, opset13.constant(right), False, False)
    hint = precision.replace("fp", "f")  # f32, f16, bf16
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = openvino.Model([product], [start])
    request = openvino_core("measuring").compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer({0: left}, share_inputs=True)

"""The same matrix product by every library that is installed: which of them is fastest differs by processor and precision."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import MissingExtraError
from hat.runtime.openvino_core import openvino_core

_CHAIN = 4
"""Products in a row where a library converts what goes in and out, so that converting does not count."""


_OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def matrix_products(precision: str, size: int, device: str) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Ways to multiply square matrices.

    Args:
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"int8"``.
        size: Rows and columns of each matrix.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; on a CPU with as many threads as torch has.

    Yields:
        The number of products that a call computes, and the call.
    """
    if device != "cpu" or precision != "fp16":  # torch takes a hundred times as long for it on a processor
        yield 1, _by_torch(precision, size, device)
    if device == "cpu" and precision in ("fp32", "int8"):
        yield from _by_onnx_runtime(precision, size)
    if device == "cpu" and precision in _OPENVINO_HINTS:
        yield from _by_openvino(precision, size)


def has_float16() -> bool:
    """Return whether this machine's processor has float16 arithmetic that a runtime of ours uses."""
    return "FP16" in _openvino_capabilities()


def _by_torch(precision: str, size: int, device: str) -> Callable[[], Any]:
    import torch

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
        import onnx
        import onnxruntime
    except ImportError:
        return
    import torch
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    left: npt.NDArray[Any]
    right: npt.NDArray[Any]
    if precision == "fp32":
        operator, given, made = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
        left, right = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    else:
        operator, given, made = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
        left = rng.integers(0, 256, (size, size), dtype=np.uint8)
        right = rng.integers(-127, 128, (size, size), dtype=np.int8)
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", given, [size, size])],
        [helper.make_tensor_value_info("y", made, [size, size])],
        [numpy_helper.from_array(right, "b")],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
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


def _by_openvino(precision: str, size: int) -> Iterator[tuple[int, Callable[[], Any]]]:
    if precision.upper() not in _openvino_capabilities():
        return
    import openvino
    import torch
    from openvino import opset13

    rng = np.random.default_rng(0)
    left = rng.standard_normal((size, size), dtype=np.float32)
    start = opset13.parameter([size, size], openvino.Type.f32)
    product = start
    for _ in range(_CHAIN):
        right = rng.standard_normal((size, size), dtype=np.float32) / np.float32(size**0.5)  # values keep their size
        product = opset13.matmul(product, opset13.constant(right), False, False)
    options = {"INFERENCE_PRECISION_HINT": _OPENVINO_HINTS[precision], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = openvino.Model([product], [start])
    request = openvino_core("measuring").compile_model(model, "CPU", options).create_infer_request()
    yield _CHAIN, lambda: request.infer({0: left}, share_inputs=True)

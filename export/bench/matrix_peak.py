"""What a machine can do at best: the rate of a large matrix product, in each precision, timed beside the models.

The best of several libraries and sizes: one library alone would tell what its authors wrote for this processor, and a runtime
with better kernels would reach more than all of it.

A share of the peak says how much of the machine a model uses, which a number of images in a second does not. Operations are
counted as in `hat.model.complexity`: a multiplication and an addition are two.
"""

import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from hat.errors import UsageError

from .matrix_products import has_float16, matrix_products

_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}


def timed_precisions(device: str) -> tuple[str, ...]:
    """Return the precisions whose matrix product is timed: all that the device computes in."""
    # Most processors have no float16 arithmetic, and runtimes compute in float32 there.
    return ("fp32", "bf16", "int8") if device == "cpu" and not has_float16() else ("fp32", "fp16", "bf16", "int8")


_SLOW_S = 0.25
"""A product that takes longer is emulated: bfloat16 on a processor that has none runs at a hundredth of the rate."""


def peak_of(precision: str, rates: Mapping[str, float]) -> float | None:
    """Return the rate that a model of a precision is held against.

    A coarser precision may always be computed in float32, so it is the faster of the two.

    Args:
        precision: Of the model.
        rates: Precision -> operations in a second, as measured.

    Returns:
        Operations in a second; None where the precision was not timed.
    """
    if precision == "fp16" and "fp16" not in rates:  # a processor computes it in float32
        return rates.get("fp32")
    if precision not in rates:
        return None
    return max(rates[precision], rates.get("fp32", 0.0))


def matrix_rate(precision: str, device: str, seconds: float) -> float:
    """Return the best rate of a square matrix product, over some sizes and the libraries that are installed.

    Args:
        precision: One of `timed_precisions`.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. On CUDA the tensor cores may round float32 to TF32, as convolutions do.
        seconds: How long to measure, shared by all. Making the products takes longer, at the first call.

    Returns:
        Operations in a second of the fastest product.

    Raises:
        UsageError: The precision is not timed on the device.
    """
    import torch

    kind = device.partition(":")[0]
    if precision not in timed_precisions(kind):
        raise UsageError(
            f"no matrix product of {precision} is timed on {device}: known are {', '.join(timed_precisions(kind))}"
        )
    synchronize: Callable[[], Any] = torch.cuda.synchronize if kind == "cuda" else lambda: None
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    best = 0.0
    products = _products(precision, device, torch.get_num_threads())
    try:
        with torch.inference_mode():
            for sizes in products:
                for operations, product in list(sizes):
                    first = time.perf_counter()
                    product()
                    synchronize()
                    start = now = time.perf_counter()
                    end = start + seconds / sum(map(len, products))
                    if start - first > _SLOW_S:  # emulated here: larger ones would take minutes and show nothing else
                        best = max(best, operations / (start - first))
                        del sizes[1:]
                        break
                    while now < end:
                        start = now
                        product()
                        synchronize()
                        now = time.perf_counter()
                        best = max(best, operations / (now - start))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return best


@cache
def _products(precision: str, device: str, num_threads: int) -> list[list[tuple[int, Callable[[], Any]]]]:
    """Return for each library operations and call of its products, the smallest first: kept, since libraries compile them."""
    by_size = [
        [(2 * size**3 * count, product) for count, product in matrix_products(precision, size, device)]
        for size in sorted(_SIZES[device.partition(":")[0]])
    ]
    return [list(sizes) for sizes in zip(*by_size, strict=True)]

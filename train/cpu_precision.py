"""bfloat16 on CPUs, without the two operations that CPUs do slowly in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["SlowInBfloat16"]


class SlowInBfloat16(TorchFunctionMode):
    """Inside this context depthwise convolutions and attention are computed in float32, on top of CPU autocast.

    Their backward passes in bfloat16 have no fast kernels. On two cores with AVX-512 and its bf16 instructions (torch 2.13)
    `hat_mobilenet_v2` at 128 x 64 trains on about 1.4 times as many images a second as in float32 this way, and plain autocast
    gains next to nothing. Results come out in the type of the input, so that what follows stays in bfloat16.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        slow = func is F.scaled_dot_product_attention or (func is torch.conv2d and _is_depthwise(*args, **options))
        if not slow:
            return func(*args, **options)
        kind = args[0].dtype
        with torch.autocast("cpu", enabled=False):
            result = func(*(_widen(value) for value in args), **{name: _widen(value) for name, value in options.items()})
        return result.to(kind)


def _is_depthwise(*args: Any, **kwargs: Any) -> bool:
    image, weight = args[:2]
    return bool(weight.shape[1] == 1 and image.shape[1] > 1 and image.dtype == torch.bfloat16)


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value

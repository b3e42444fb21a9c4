"""Faster ways to the same results on a CPU, for operations that torch does slowly there."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class CpuKernels(TorchFunctionMode):
    """Replaces operations of a forward pass, and their backward passes with them, for as long as the context lasts.

    - Dropout draws 16 bits for an element instead of a float: see `dropout`.
    - The weights' gradient of a 1 x 1 convolution is a plain matrix product, which MKL computes a fifth faster than oneDNN on
      processors that have AVX2 and no AVX-512 (an EPYC of the first generation: 32 GFLOP/s instead of 25).
    - Maps with the channels innermost get gradients that are laid out so when their mean is taken. Torch's come in the other
      layout, in which the backward pass of a batch norm before it takes 15 times as long: a fourteenth of a step of
      `hat_mobilenet_v2`.
    - In bfloat16, on top of CPU autocast, depthwise convolutions and attention are computed in float32: their backward passes
      in bfloat16 have no fast kernels. On two cores with AVX-512 and its bf16 instructions (torch 2.13) `hat_mobilenet_v2` at
      128 x 64 trains on about 1.4 times as many images a second as in float32 this way, and plain autocast gains next to
      nothing. Results come out in the type of the input, so that what follows stays in bfloat16.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pointwise_by_product = torch.backends.cpu.get_cpu_capability() == "AVX2"

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is F.dropout:
            return dropout(*args, **options)
        if func is Tensor.mean:
            _keep_layout_of_gradient(args[0])
        if func is torch.conv2d:
            if self._pointwise_by_product and _is_pointwise(*args, **options):
                return _PointwiseConvolution.apply(args[0], args[1])  # type: ignore[no-untyped-call]
            if _is_depthwise(*args, **options):
                return _in_float32(func, args, options)
        if func is F.scaled_dot_product_attention:
            return _in_float32(func, args, options)
        return func(*args, **options)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002 (torch's name)
    """Compute `torch.nn.functional.dropout` from 16 random bits an element, four elements to a number of the generator.

    The probability is rounded to a multiple of 2^-16, and what is kept is scaled by the reciprocal of the rounded one, so that
    the expectation is the input. The result is a new tensor, whatever ``inplace`` says.
    """
    threshold = round(p * 2**16)
    if not training or threshold == 0:
        return input
    if threshold == 2**16:
        return input * 0
    numbers = torch.empty((input.numel() + 3) // 4, dtype=torch.int64, device=input.device).random_(-(2**63), None)
    kept = numbers.view(torch.int16)[: input.numel()].view(input.shape) >= threshold - 2**15
    return input * kept.to(input.dtype).mul_(2**16 / (2**16 - threshold))


class _PointwiseConvolution(torch.autograd.Function):
    """A 1 x 1 convolution of (B, C, H, W) with the channels innermost; (D, C, 1, 1) weights, no bias."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return torch.conv2d(images, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        images, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        images_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            images_gradient, _, _ = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
            )
        if ctx.needs_input_grad[1]:
            rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, D), a view
            columns = images.permute(0, 2, 3, 1).flatten(0, 2)  # (B * H * W, C), a view
            # The product with the longer side as its rows is the faster one.
            product = rows.T @ columns if rows.shape[1] >= columns.shape[1] else (columns.T @ rows).T
            weight_gradient = product.reshape(weight.shape)
        return images_gradient, weight_gradient


def _is_pointwise(
    images: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> bool:
    return bool(
        images.dtype == weight.dtype == torch.float32
        and weight.requires_grad
        and weight.shape[2:] == (1, 1)
        and bias is None
        and groups == 1
        and stride in (1, (1, 1))
        and padding in (0, (0, 0))
        and not torch.is_autocast_enabled("cpu")
        and images.is_contiguous(memory_format=torch.channels_last)
    )


def _keep_layout_of_gradient(maps: Tensor) -> None:
    if maps.requires_grad and maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last):
        maps.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))


def _is_depthwise(*args: Any, **kwargs: Any) -> bool:
    image, weight = args[:2]
    return bool(weight.shape[1] == 1 and image.shape[1] > 1 and image.dtype == torch.bfloat16)


def _in_float32(func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    kind = args[0].dtype
    if kind != torch.bfloat16:
        return func(*args, **options)
    with torch.autocast("cpu", enabled=False):
        result = func(*(_widen(value) for value in args), **{name: _widen(value) for name, value in options.items()})
    return result.to(kind)


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value

"""Counting a model without running it: parameters and operations, by part.

The counts are analytic: every convolution, linear layer and attention is counted from its own shapes while an image of shapes
alone (torch's ``meta`` device) passes through. A multiplication and an addition are two operations, as in the paper's tables
and as torch's flop counter has it; norms, activations, pooling and softmax are not counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hat.model.architecture import HAT
from hat.model.config import ModelConfig
from hat.model.transformer import Attention

__all__ = ["Complexity", "count_complexity"]

_PARTS = {"mfe": "mfe", "pooling": "mfe", "bottlenecks": "bottlenecks", "necks": "heads", "classifiers": "heads"}


@dataclass(frozen=True)
class Complexity:
    """What a model holds and does for one image.

    Attributes:
        embed_dim: Width of an embedding.
        num_params: Part -> number of parameters, the classifiers' left out: they are not needed for an embedding.
        num_operations: Part -> operations for one image, a multiplication and an addition counted as two.
    """

    embed_dim: int
    num_params: dict[str, int]
    num_operations: dict[str, int]

    @property
    def total_params(self) -> int:
        """Number of parameters without classifiers."""
        return sum(self.num_params.values())

    @property
    def total_operations(self) -> int:
        """Operations for one image."""
        return sum(self.num_operations.values())


def count_complexity(config: ModelConfig, *, cls_only: bool = False) -> Complexity:
    """Count a model's parameters and its operations for one image.

    Args:
        config: The architecture.
        cls_only: Count the last stage as it runs when only its CLS is computed (`hat.model.aggregation.DSA`).

    Raises:
        ModelError: The backbone cannot be built.
    """
    with torch.device("meta"):
        model = HAT(config, num_classes=1).eval()
        model.dsa.cls_only = cls_only
        images = torch.zeros(1, 3, *config.image_size)
    num_params: defaultdict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        if not name.startswith("classifiers."):
            num_params[_part(name)] += parameter.numel()

    num_operations: defaultdict[str, int] = defaultdict(int)
    handles = [
        module.register_forward_hook(_counter(num_operations, _part(name)), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | Attention)
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return Complexity(model.embed_dim, dict(num_params), dict(num_operations))


def _part(name: str) -> str:
    """The part of the paper's figure to which a module or parameter belongs."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "dsa" else _PARTS[first]


def _counter(total: defaultdict[str, int], part: str) -> Callable[..., None]:
    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        total[part] += _operations(module, args, kwargs, output)

    return count


def _operations(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        taps = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
        return 2 * taps * output.numel()
    if isinstance(module, nn.Linear):
        return 2 * module.in_features * output.numel()
    assert isinstance(module, Attention)
    tokens: Tensor = args[0]
    inner = module.num_heads * module.head_dim
    num_keys, width = tokens.shape[1:]
    num_queries = output.shape[1]
    products = 2 * 2 * num_queries * num_keys * inner  # queries with keys, weights with values
    if num_queries == num_keys:
        return products  # the projection is a linear layer and counts itself
    return products + 2 * width * inner * (num_queries + 2 * num_keys)

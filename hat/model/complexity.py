"""Parameters and operations of a model by part, counted by torch on its ``meta`` device: no weight is made, nothing computed.

A multiplication and an addition are two operations, as in torch's flop counter; norms, activations, pooling and softmax are not
counted.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hat.model.config import ModelConfig
from hat.model.hat import HAT

_PARTS = {"mfe": "mfe", "pooling": "mfe", "bottlenecks": "bottlenecks"}
_PARTS |= dict.fromkeys(("necks", "projection", "classifiers"), "heads")
_WHOLE = {"Global", "HAT", "dsa"}
"""Modules of several parts."""


@dataclass(frozen=True)
class Complexity:
    """Parameters of a model, and its operations for one image."""

    embed_dim: int
    num_params: dict[str, int]
    """Part -> number of parameters, the classifiers' left out: they are not needed for an embedding."""
    num_operations: dict[str, int]
    """Part -> operations for one image."""

    @property
    def total_params(self) -> int:
        """Number of parameters without classifiers."""
        return sum(self.num_params.values())

    @property
    def total_operations(self) -> int:
        """Operations for one image."""
        return sum(self.num_operations.values())


def count_complexity(config: ModelConfig, *, cls_only: bool = False) -> Complexity:
    """Count a model's parameters and its operations for one image; of the last stage's, ``cls_only``, those for its CLS."""
    with torch.device("meta"):
        model = HAT(config, num_classes=1).eval()
        model.dsa.cls_only = cls_only
        images = torch.zeros(1, 3, *config.image_size)
    num_params: defaultdict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        if not name.startswith("classifiers."):
            num_params[_part(name)] += parameter.numel()

    # Attention is counted by its two products, which the fused operators would hide.
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    counts = {name.removeprefix("HAT."): sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    num_operations = dict.fromkeys(num_params, 0)
    for name, count in counts.items():
        # The count of a module holds those of the modules in it, so that only the outermost module of a part is added.
        outer = {name[:end] for end, letter in enumerate(name) if letter == "."}
        if name not in _WHOLE and not (outer & counts.keys()) - _WHOLE:
            num_operations[_part(name)] += count
    return Complexity(model.embed_dim, dict(num_params), num_operations)


def _part(name: str) -> str:
    """Return the part of the paper's figure to which a module or parameter belongs."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "dsa" else _PARTS[first]

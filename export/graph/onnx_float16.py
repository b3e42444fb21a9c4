"""The inference graph in half precision, as a module: what is written into the ONNX file is what PyTorch traced.

The types are decided here, before tracing, and not by a converter of the finished ONNX: the converters that are kept up
(onnxruntime.transformers.float16, onnxconverter-common) put casts around operators by their type alone, know no bfloat16, and
cannot tell the sum of an L2 norm from any other sum. On modules the rule is short: weights and what flows between layers are
half, and a few named kinds of layer are computed in float32 between two casts. TensorRT's strongly typed mode reads these casts
as they stand.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.errors import WorkError
from hat.model import HAT
from hat.model.inference import InferenceModel
from hat.model.transformer import Attention

__all__ = ["HalfInferenceModel"]

_FLOAT32_LAYERS: tuple[type[nn.Module], ...] = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.BatchNorm2d,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.Softmax,
)
"""Layers that sum over many values, where eleven bits of mantissa lose what matters, or that divide by a small one."""

_NUM_PROBES = 2


class HalfInferenceModel(nn.Module):
    """A trained model in float16 or bfloat16: convolutions, linear layers and attention's products in half.

    Pixels are normalized in float32, and layer norms, softmax, poolings over the whole map, the necks and the L2 norm are
    computed in float32 too. Input and output are those of `InferenceModel`.

    Args:
        model: The trained model. It is left as it is.
        dtype: ``torch.float16`` or ``torch.bfloat16``.

    Raises:
        WorkError: A weight, or what a layer gives for a picture of noise, is not finite in this type.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor
    embedding_scale: Tensor
    embedding_shift: Tensor

    def __init__(self, model: HAT, dtype: torch.dtype) -> None:
        super().__init__()
        graph = InferenceModel(model).cpu()
        self.dtype = dtype
        self.config, self.embed_dim = graph.config, graph.embed_dim
        self.mfe, self.bottlenecks, self.dsa = graph.mfe, graph.bottlenecks, graph.dsa
        for name in ("pixel_scale", "pixel_shift", "embedding_scale", "embedding_shift"):
            self.register_buffer(name, graph.get_buffer(name))
        for part in self.children():
            _keep_in_float32(part)
        converted = [weight for name, part in self.named_children() for weight in _converted(part, name, dtype)]
        if dtype == torch.float16:
            _check_activations(graph)
        for old, new in converted:
            old.data = new
        if self.config.mfe_supervision:
            self.pooling = graph.pooling  # after the weights were converted: its power stays in float32
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 or float 0-255 RGB to (B, embed_dim) float32, rows of unit length."""
        pixels = (images.float() * self.pixel_scale + self.pixel_shift).to(self.dtype)
        levels = self.mfe(pixels)
        maps = {name: blocks(levels[int(name[-1]) - 1]) for name, blocks in self.bottlenecks.items()}
        height, width = images.shape[-2:]
        features = self.dsa(maps, (height, width))
        parts = [self.pooling(levels[-1].float())] if self.config.mfe_supervision else []
        joined = torch.cat([*parts, features[self.config.embedding_branches[-1]].float()], dim=1)  # (B, embed_dim)
        return F.normalize(joined * self.embedding_scale + self.embedding_shift, dim=1)


class _InFloat32(nn.Module):
    """A layer between two casts."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.float())
        return out.to(x.dtype)


class _HalfAttention(nn.Module):
    """`Attention` with its softmax in float32, its parts written out: a fused attention would hide the type of the softmax."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = attention.num_heads, attention.head_dim, attention.scale
        self.to_qkv, self.to_out = attention.to_qkv, attention.to_out

    def forward(self, tokens: Tensor, num_queries: int | None = None) -> Tensor:
        inner = self.num_heads * self.head_dim
        if num_queries is None:
            q, k, v = self.to_qkv(tokens).chunk(3, dim=-1)  # each (B, N, heads * head_dim)
        else:
            weight_q, weight_kv = self.to_qkv.weight.split([inner, 2 * inner])
            q = F.linear(tokens[:, :num_queries], weight_q)
            k, v = F.linear(tokens, weight_kv).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        # The scale goes to the queries: unscaled logits of wide heads can leave the range of float16.
        logits = (q * self.scale) @ k.transpose(-1, -2)  # (B, heads, queries, N)
        attended = logits.float().softmax(dim=-1).to(tokens.dtype) @ v  # (B, heads, queries, head_dim)
        out: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))  # (B, queries, C)
        return out


def _keep_in_float32(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Attention):
            setattr(module, name, _HalfAttention(child))
        elif isinstance(child, _FLOAT32_LAYERS):
            setattr(module, name, _InFloat32(child))
        else:
            _keep_in_float32(child)


def _converted(part: nn.Module, prefix: str, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Every weight that is not inside a layer kept in float32, with its value in another type."""
    kept = {id(inner) for module in part.modules() if isinstance(module, _InFloat32) for inner in module.modules()}
    pairs = []
    for path, module in part.named_modules(prefix=prefix):
        if id(module) in kept:
            continue
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if not value.is_floating_point():
                continue
            converted = value.detach().to(dtype)
            if not torch.isfinite(converted).all():
                raise WorkError(
                    f"the weight {path}.{name} reaches {float(value.abs().max()):.4g} and {_name(dtype)} ends at "
                    f"{torch.finfo(dtype).max:.4g}: export in bf16 or fp32"
                )
            pairs.append((value, converted))
    return pairs


def _check_activations(graph: InferenceModel) -> None:
    """Run pictures of noise in float32 and look whether every layer's output fits into float16.

    Raises:
        WorkError: It does not; the first layer is named.
    """
    limit = torch.finfo(torch.float16).max
    beyond: list[tuple[str, float]] = []

    def look(name: str, output: object) -> None:
        largest = float(output.abs().max()) if isinstance(output, Tensor) else 0.0
        if not largest <= limit:
            beyond.append((name, largest))

    watched = [(name, module) for name, module in graph.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [module.register_forward_hook(lambda _m, _i, output, name=name: look(name, output)) for name, module in watched]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (_NUM_PROBES, 3, *graph.config.image_size), dtype=torch.uint8, generator=generator)
    try:
        with torch.inference_mode():
            graph(noise)
    finally:
        for handle in handles:
            handle.remove()
    if beyond:
        name, largest = beyond[0]
        raise WorkError(f"{name} gives values up to {largest:.4g} and float16 ends at {limit:.4g}: export in bf16 or fp32")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""The inference graph in half precision, as a module: what is written into the ONNX file is what PyTorch traced.

The types are decided here, before tracing, and not by a converter of the finished ONNX: the converters that are kept up
(onnxruntime.transformers.float16, onnxconverter-common) put casts around operators by their type alone, know no bfloat16, and
cannot tell the sum of an L2 norm from any other sum. On modules the rule is short: weights and what flows between layers are
half, and a few named kinds of layer are computed in float32 between two casts. TensorRT's strongly typed mode reads these casts
as they stand.
"""

import torch
from torch import Tensor, nn

from hat.errors import WorkError
from hat.model import HAT
from hat.model.inference import InferenceModel
from hat.model.layers import Attention

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


def half_inference_model(model: HAT, dtype: torch.dtype) -> InferenceModel:
    """Make the inference graph in float16 or bfloat16, on the CPU.

    Convolutions, linear layers and attention's products compute in half; pixel normalization, layer norms, softmax, poolings
    over the whole map, the necks and the L2 norm in float32.

    Raises:
        WorkError: A weight, or what a layer gives for a picture of noise, is not finite in this type.
    """
    graph = InferenceModel(model).cpu()
    converted = []
    for name in ("mfe", "bottlenecks", "dsa", *(["projection"] if graph.projection is not None else [])):
        part = graph.get_submodule(name)
        _keep_in_float32(part)
        converted += _converted(part, name, dtype)
    if dtype == torch.float16:
        _check_activations(graph)
    for old, new in converted:
        old.data = new
    if graph.config.mfe_supervision:
        graph.pooling = _InFloat32(graph.pooling, keep=True)  # an average over the map, of which the embedding is a part
    graph.dtype = dtype
    return graph


class _InFloat32(nn.Module):
    """A layer between two casts, or after one where its result is to stay in float32."""

    def __init__(self, layer: nn.Module, *, keep: bool = False) -> None:
        super().__init__()
        self.layer, self.keep = layer, keep

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.float())
        return out if self.keep else out.to(x.dtype)


class _HalfAttention(Attention):
    """`Attention` with its softmax in float32, its parts written out: a fused attention would hide the type of the softmax."""

    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.head_dim, self.scale = attention.num_heads, attention.head_dim, attention.scale
        self.to_qkv, self.to_out, self.dropout = attention.to_qkv, attention.to_out, attention.dropout

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # The scale goes to the queries: unscaled logits of wide heads can leave the range of float16.
        logits = (q * self.scale) @ k.transpose(-1, -2)  # (B, heads, queries, N)
        attended: Tensor = logits.float().softmax(dim=-1).to(q.dtype) @ v  # (B, heads, queries, head_dim)
        return attended


def _keep_in_float32(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Attention):
            setattr(module, name, _HalfAttention(child))
        elif isinstance(child, _FLOAT32_LAYERS):
            setattr(module, name, _InFloat32(child))
        else:
            _keep_in_float32(child)


def _converted(part: nn.Module, prefix: str, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Return every weight that is not inside a layer kept in float32, with its value in another type."""
    float32_modules = {id(inner) for module in part.modules() if isinstance(module, _InFloat32) for inner in module.modules()}
    pairs = []
    kind = str(dtype).removeprefix("torch.")
    for path, module in part.named_modules(prefix=prefix):
        if id(module) in float32_modules:
            continue
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if not value.is_floating_point():
                continue
            converted = value.detach().to(dtype)
            if not torch.isfinite(converted).all():
                raise WorkError(
                    f"the weight {path}.{name} reaches {float(value.abs().max()):.4g} and {kind} ends at "
                    f"{torch.finfo(dtype).max:.4g}: export in bf16 or fp32"
                )
            pairs.append((value, converted))
    return pairs


def _check_activations(graph: InferenceModel) -> None:
    """Run pictures of noise in float32 and raise WorkError with the first layer whose output does not fit into float16."""
    limit = torch.finfo(torch.float16).max

    def look(name: str, output: Tensor) -> None:
        largest = float(output.abs().max())
        if not largest <= limit:
            raise WorkError(f"{name} gives values up to {largest:.4g} and float16 ends at {limit:.4g}: export in bf16 or fp32")

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

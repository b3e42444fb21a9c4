"""The exact inference graph of a trained HAT: the same embeddings with fewer operations, from pixels to unit vectors.

What differs from the training module, none of which changes the result:
- batch norms are folded into the convolutions before them, and the BNNecks into one scale and shift of the embedding;
- of the last stage only CLS is computed: its last block has queries, projection and feed-forward network for CLS alone, and
  its NeA, which nothing reads, is gone;
- conversion to float, normalization and the L2 norm are part of the graph, so that no host can get them wrong.
"""

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hat.errors import WorkError
from hat.model.hat import HAT, FeatureExtractor


class InferenceModel(FeatureExtractor):
    """A trained model as a function from pixels to embeddings; its weights are copies, and the model is left as it is."""

    dtype: torch.dtype
    """Type of what flows between layers; necks and L2 norm are computed in float32 whatever it is."""

    pixel_scale: Tensor
    pixel_shift: Tensor
    embedding_scale: Tensor
    embedding_shift: Tensor

    def __init__(self, model: HAT) -> None:
        super().__init__()
        self.config = model.config
        self.preprocessing = model.preprocessing
        self.embed_dim = model.embed_dim
        self.dtype = torch.float32
        trained = copy.deepcopy(model).eval().requires_grad_(False)
        device = next(trained.parameters()).device
        fold_batch_norms(trained, torch.zeros(1, 3, *model.config.image_size, device=device))
        self.mfe, self.bottlenecks, self.dsa = trained.mfe, trained.bottlenecks, trained.dsa
        if model.config.mfe_supervision:
            self.pooling = trained.pooling
        self.dsa.cls_only = True
        for stage in list(self.dsa.values())[-1:]:
            stage.nea = nn.Identity()

        mean = torch.tensor(model.preprocessing.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(model.preprocessing.std, device=device).view(1, 3, 1, 1)
        self.register_buffer("pixel_scale", 1 / (255 * std))
        self.register_buffer("pixel_shift", -mean / std)
        necks = [_scale_and_shift(trained.necks[name]) for name in model.config.embedding_branches]
        self.register_buffer("embedding_scale", torch.cat([scale for scale, _ in necks]))
        self.register_buffer("embedding_shift", torch.cat([shift for _, shift in necks]))
        self.projection = trained.projection
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Embed (B, 3, H, W) uint8 RGB, or floating point in the range 0-255: (B, embed_dim) float32, rows of unit length."""
        self.check_shape(images)
        pixels = (images.float() * self.pixel_scale + self.pixel_shift).to(self.dtype)
        features = self.extract(pixels)
        joined = torch.cat([features[name].float() for name in self.config.embedding_branches], dim=1)
        embedding = F.normalize(joined * self.embedding_scale + self.embedding_shift, dim=1)
        return embedding if self.projection is None else self.project(embedding.to(self.dtype))


def fold_batch_norms(module: nn.Module, example: Tensor) -> None:
    """Fold every batch norm of a network in evaluation mode into the convolution before it, in place.

    Which norm follows which convolution is read off a run on ``example``: a norm whose input is the very tensor that a
    convolution gave. So it works for any network, whatever its layers are called, and a norm that stands elsewhere stays. A
    folded network that does not compute what the network computed is a `WorkError`.
    """
    producers: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    runs: Counter[str] = Counter()

    def after_convolution(name: str, output: Tensor) -> None:
        runs[name] += 1
        producers[id(output)] = (name, output)  # the tensor is kept, so that its id is not given to another one

    def before_norm(name: str, entering: Tensor) -> None:
        if id(entering) in producers:
            pairs.append((producers[id(entering)][0], name))

    handles = []
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            handles.append(part.register_forward_hook(lambda _m, _i, out, name=name: after_convolution(name, out)))
        elif isinstance(part, nn.BatchNorm2d):
            handles.append(part.register_forward_pre_hook(lambda _m, args, name=name: before_norm(name, args[0])))
    with torch.no_grad():
        before = module(example)
    for handle in handles:
        handle.remove()

    for convolution, norm in pairs:
        if runs[convolution] == 1:  # one that is shared by two places has two norms
            _fold(module, convolution, norm)
    with torch.no_grad():
        difference = float((module(example) - before).abs().max())
    if not difference < 1e-4:
        raise WorkError(
            f"folding batch norms changed the output by {difference:.1e}; a convolution must be read by more than its norm"
        )


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    layer, batch_norm = module.get_submodule(convolution), module.get_submodule(norm)
    assert isinstance(layer, nn.Conv2d) and isinstance(batch_norm, nn.BatchNorm2d)
    module.set_submodule(convolution, fuse_conv_bn_eval(layer, batch_norm))
    # timm's norms carry the activation that follows them.
    activation = getattr(batch_norm, "act", None)
    module.set_submodule(norm, activation if isinstance(activation, nn.Module) else nn.Identity())


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a batch norm in evaluation mode as factors of ``x * scale + shift``."""
    assert isinstance(norm, nn.BatchNorm1d) and norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale

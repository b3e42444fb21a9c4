"""Maps of a model: activation maps of its branches (paper Fig. 5), maps of its stages (Fig. 6), attention of the CLS token.

For a map A of channels A_c and a number y that the network computes from it,

    activation map = max(0, sum over c of dy/dA_c * A_c),

product and sum at each position, and each map then scaled to its own range, [0, 1]. This is Grad-CAM (Selvaraju et al., ICCV
2017) with the gradient of each position in place of its mean over all of them (HiResCAM, Draelos and Carin 2020). A and y of a
branch:

- ``"mfe"``: A is the last map of the CNN, y is computed from the MFE feature alone. The feature being the mean over the
  positions, the gradient is the same at all of them: this is Grad-CAM itself and, for a logit, the first class activation maps
  (Zhou et al., CVPR 2016).
- the last stage, ``"tfc3"`` for example: A is the map that enters it, its level and the calibrated map of the stage before it
  side by side; y is computed from its CLS. Attention gives every position a gradient of its own, often of opposite signs, which
  is why these are not averaged. The tokens that leave the stage would not do: CLS does not depend on them.

With ``target="embedding"`` y is half the squared length of the branch's BN-necked feature, the branch's part of the embedding
or of what a projection makes it of: a channel then weighs more the further this person lies from the average of the
training set in it. No identity is asked for, which suits people who were not in the training set. With ``target="class"`` y is
the largest logit of the branch's own classifier.

Differs: the paper shows such maps without saying how they were computed.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hat.errors import UsageError
from hat.io.plot_file import require_matplotlib
from hat.model import HAT

from .figures import Tile, draw_grid

Target = Literal["embedding", "class"]
Maps = dict[str, npt.NDArray[np.float32]]

_BATCH_SIZE = 16
_TILE_HEIGHT = 224
_LEGEND = "Light is high; each map is scaled to its own range"


def branch_activations(model: HAT, images: Sequence[Image.Image], *, target: Target = "embedding") -> Maps:
    """Compute activation maps of every branch of the embedding, as the top of this module defines them.

    Decoded images of any size are resized by the model's own preprocessing; the model, on any device, is left as it was.

    Returns:
        Branch name -> (n, h, w) float32 in [0, 1], 1 where the branch is most active; ``"mfe"`` where the MFE is supervised, at
        the size of the CNN's last map, and the last stage at the size of its token map. A map without any positive activation,
        or with the same one everywhere, is 0.
    """
    _check_images(images)
    if target not in get_args(Target):
        raise UsageError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}")
    branches = model.config.embedding_branches
    found: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in branches}
    seen: dict[str, Tensor] = {}

    def leaf(name: str, feature_map: Tensor) -> Tensor:
        # The start of a graph: nothing below is differentiated, and frozen parameters do not matter.
        seen[name] = feature_map.detach().requires_grad_()
        return seen[name]

    # Gradients are needed whatever mode the caller is in.
    with _inspected(model) as handles, torch.inference_mode(False), torch.enable_grad():
        if (last := branches[-1]) in model.dsa:
            handles.append(model.dsa[last].register_forward_pre_hook(lambda _, inputs: (leaf(last, inputs[0]),)))
        if "mfe" in branches:
            handles.append(model.mfe.register_forward_hook(lambda _, __, levels: [*levels[:-1], leaf("mfe", levels[-1])]))
        for batch in _batches(model, images):
            features = model.features(batch)
            for name in branches:
                bn_feature = model.necks[name](features[name])
                y = model.classifiers[name](bn_feature).amax(dim=1) if target == "class" else bn_feature.square() / 2
                (gradient,) = torch.autograd.grad(y.sum(), seen[name], retain_graph=name != last)
                maps = (gradient * seen[name]).sum(dim=1).relu()  # (B, h, w)
                found[name].append(maps.detach().float().cpu().numpy())
    return {name: scale_to_unit(np.concatenate(parts)) for name, parts in found.items()}


def token_maps(model: HAT, images: Sequence[Image.Image]) -> Maps:
    """Compute the map that leaves each stage, averaged over its channels (paper Fig. 6).

    A stage's map is its calibrated tokens put back in their places and passed through NeA where the stage has one (Eq. 5). The
    mean is that of absolute values. After NeA none is negative; tokens of a stage without NeA come from a layer norm, and their
    plain mean over channels is about the same at every position.

    Returns:
        Stage name -> (n, h, w) float32 of at least 0, from the first stage to the last, (h, w) being the token grid.
    """
    return _watch(model, images, lambda stage, keep: stage.register_forward_hook(lambda _, __, out: keep(out[1].abs().mean(1))))


def cls_attention(model: HAT, images: Sequence[Image.Image]) -> Maps:
    """Compute how strongly each stage's CLS attends to every place: weights of the last block, averaged over heads (Eq. 1).

    The result is as that of `token_maps`. The sum over the places is 1 less the weight that CLS gives to itself.
    """

    def watch(stage: Any, keep: Callable[[Tensor], None]) -> Any:
        def hook(attention: Any, inputs: tuple[Tensor, ...]) -> None:
            weights = attention.weights(inputs[0])[:, :, 0, 1:]  # (B, heads, h*w)
            keep(weights.mean(dim=1).unflatten(1, model.config.token_grid))

        return stage.blocks[-1].attention.register_forward_pre_hook(hook)

    return _watch(model, images, watch)


def activation_maps(model: HAT, images: Sequence[Image.Image], *, baseline: HAT | None = None) -> Image.Image:
    """Draw activation maps as an RGB picture: under each image those of the baseline's MFE, the model's MFE and its DSA.

    The baseline is a model to compare with, whose MFE is supervised: one trained without aggregation, for example, or one whose
    CNN holds ImageNet weights alone. A model without a supervised MFE has no row for it.
    """
    _check_images(images)
    if baseline is not None and not baseline.config.mfe_supervision:
        raise UsageError(
            "the baseline has no supervised MFE, and so no map to show: give a model with mfe_supervision, or None"
        )
    maps = {} if baseline is None else {"Baseline": branch_activations(baseline, images)["mfe"]}
    for name, values in branch_activations(model, images).items():
        maps["MFE" if name == "mfe" else "DSA"] = values
    subtitle = ["Gradient-weighted, of each branch's part of the embedding", _LEGEND]
    return _draw(model, images, "Class activation maps", subtitle, maps)


def tfc_maps(model: HAT, images: Sequence[Image.Image]) -> Image.Image:
    """Draw the stages as an RGB picture: under each image the averaged map of every stage, and what its CLS attends to.

    Every map is scaled to its own range; averaged maps are painted alone, attention over the image in gray.
    """
    maps = {f"{name.upper()}\nmean of\nchannels": scale_to_unit(values) for name, values in token_maps(model, images).items()}
    plain = tuple(maps)
    for name, values in cls_attention(model, images).items():
        maps[f"{name.upper()}\nattention\nof CLS"] = scale_to_unit(values)
    return _draw(model, images, "Calibrated maps by level", [_LEGEND], maps, plain=plain)


def _draw(
    model: HAT, images: Sequence[Image.Image], title: str, subtitle: Sequence[str], maps: Maps, plain: Collection[str] = ()
) -> Image.Image:
    """Draw a row of the images and under it a row for each kind of map: over the image in gray, or ``plain``."""
    height, width = model.preprocessing.size
    size = (max(1, round(_TILE_HEIGHT * width / height)), _TILE_HEIGHT)
    rows = [[Tile(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)) for image in images]]
    for name, values in maps.items():
        pairs = zip(images, values, strict=True)
        rows.append([Tile(colorize(one, size) if name in plain else overlay(image, one, size)) for image, one in pairs])
    return draw_grid(rows, title, subtitle, row_labels=["Image", *maps])


def _watch(
    model: HAT, images: Sequence[Image.Image], watch: Callable[[nn.Module, Callable[[Tensor], None]], RemovableHandle]
) -> Maps:
    """Run the images with a hook on every stage that hands (B, h, w) maps to ``keep``; return these by stage."""
    _check_images(images)
    if not model.dsa:
        raise UsageError("the model has no TFC stage to look into: its depths are (0, 0, 0, 0)")
    kept: dict[str, list[Tensor]] = {name: [] for name in model.dsa}
    with _inspected(model) as handles, torch.no_grad():
        for name, stage in model.dsa.items():
            handles.append(watch(stage, kept[name].append))
        for batch in _batches(model, images):
            model.features(batch)
    return {name: torch.cat(parts).float().cpu().numpy() for name, parts in kept.items()}


@contextmanager
def _inspected(model: HAT) -> Iterator[list[RemovableHandle]]:
    """Put a model into evaluation mode with every stage computed whole; hooks, modes and switches are put back afterwards.

    Nothing else may run the model meanwhile, from another thread for example.
    """
    modes = {module: module.training for module in model.modules()}
    cls_only = model.dsa.cls_only
    handles: list[RemovableHandle] = []
    try:
        model.eval()
        model.dsa.cls_only = False  # a stage that is run for its CLS alone never makes its map, and no hook fires on it
        yield handles
    finally:
        for handle in handles:
            handle.remove()
        model.dsa.cls_only = cls_only
        for module, training in modes.items():
            module.training = training


def _check_images(images: Sequence[Image.Image]) -> None:
    if isinstance(images, Image.Image):
        raise UsageError("expected a sequence of images, got one: put it in a list")
    if not len(images):
        raise UsageError("expected at least one image, got none")
    for item in images:
        if not isinstance(item, Image.Image):
            raise UsageError(f"expected PIL images, got {type(item).__name__}; read files with hat.data.read_image")


def _batches(model: HAT, images: Sequence[Image.Image]) -> Iterator[Tensor]:
    """Yield (B, 3, H, W) uint8 RGB batches of the images as the model's own preprocessing makes them, on its device."""
    device = next(model.parameters()).device
    for start in range(0, len(images), _BATCH_SIZE):
        yield torch.stack([model.preprocessing(image) for image in images[start : start + _BATCH_SIZE]]).to(device)


@functools.cache
def color_table() -> npt.NDArray[np.uint8]:
    """Return the colors of maps, (256, 3) uint8 sRGB, lowest value first: matplotlib's inferno, whose lightness grows evenly.

    The order of values so survives a gray print and any kind of color blindness, and no hue suggests an edge that is not there.
    """
    require_matplotlib("coloring maps")
    from matplotlib import colormaps

    table: npt.NDArray[np.uint8] = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    table.setflags(write=False)
    return table


def scale_to_unit(maps: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Scale each map, (n, h, w), to its own range: (x - min) / (max - min), or zeros where it is the same everywhere."""
    values = np.asarray(maps, dtype=np.float64)
    low, high = values.min(axis=(1, 2), keepdims=True), values.max(axis=(1, 2), keepdims=True)
    # Differences that are rounding errors of the values would be blown up to a picture of noise.
    spread = np.where(high - low > 1e-6 * np.maximum(abs(high), abs(low)), high - low, np.inf)
    scaled: npt.NDArray[np.float32] = ((values - low) / spread).astype(np.float32)
    return scaled


def colorize(values: npt.NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Paint a map, (h, w) in [0, 1], as an RGB picture of (width, height), to which it is interpolated bilinearly."""
    return Image.fromarray(color_table()[_levels(values, size)])


def overlay(image: Image.Image, values: npt.NDArray[Any], size: tuple[int, int]) -> Image.Image:
    """Lay a map, (h, w) in [0, 1], over the image that it was computed from, in an RGB picture of (width, height).

    The image is shown in pale gray, so that all color is the map's and dark clothes do not darken it; the lower the value is,
    the more of the image shows through.
    """
    levels = _levels(values, size)
    gray = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)[..., None]
    opacity = 0.45 + 0.25 * levels[..., None].astype(np.float32) / 255
    blended = (1 - opacity) * (50 + 0.8 * gray) + opacity * color_table()[levels].astype(np.float32)
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def _levels(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the color table's row for each pixel of a picture of this (width, height)."""
    resized = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR)
    levels: npt.NDArray[np.uint8] = np.rint(255 * np.asarray(resized).clip(0.0, 1.0)).astype(np.uint8)
    return levels

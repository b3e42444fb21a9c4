"""Where the MFE and the DSA look: gradient-weighted class activation maps (paper Fig. 5).

For a map A of channels A_c and a number y that the network computes from it,

    map = max(0, sum over c of dy/dA_c * A_c),

product and sum at each position, and each map then scaled to its own range, [0, 1]. This is Grad-CAM (Selvaraju et al., ICCV
2017) with the gradient of each position in place of its mean over all of them (HiResCAM, Draelos and Carin 2020). A and y of a
branch:

- ``"mfe"``: A is the last map of the CNN, y is computed from the MFE feature alone. The feature being the mean over the
  positions, the gradient is the same at all of them: this is Grad-CAM itself and, for a logit, the first class activation maps
  (Zhou et al., CVPR 2016).
- the last stage, ``"tfc3"`` for example: A is the map that enters it, its level and the calibrated map of the stage before it
  side by side; y is computed from its CLS. Attention gives every position a gradient of its own, often of opposite signs, which
  is why these are not averaged. The tokens that leave the stage would not do: CLS does not depend on them.

With ``target="embedding"`` y is half the squared length of the branch's BN-necked feature, the branch's part of the embedding:
a channel then weighs more the further this person lies from the average of the training set in it. No identity is asked for,
which suits people who were not in the training set. With ``target="class"`` y is the largest logit of the branch's own
classifier.

Differs: the paper shows such maps without saying how they were computed.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from hat.errors import UsageError
from hat.model import HAT
from hat.visual.color_map import overlay, scale_to_unit
from hat.visual.inspection import check_images, input_batches, inspected
from hat.visual.map_table import Column, draw_map_table, tile_size

Target = Literal["embedding", "class"]


def branch_activations(
    model: HAT, images: Sequence[Image.Image], *, target: Target = "embedding"
) -> dict[str, npt.NDArray[np.float32]]:
    """Compute class activation maps of every branch of the embedding, as the top of this module defines them.

    Args:
        model: The model, on any device; it is left as it was.
        images: Decoded images of any size; the model's own preprocessing resizes them.
        target: What the maps explain: ``"embedding"`` or ``"class"``.

    Returns:
        Branch name -> (n, h, w) float32 in [0, 1], 1 where the branch is most active; ``"mfe"`` where the MFE is supervised, at
        the size of the CNN's last map, and the last stage at the size of its token map. A map without any positive activation,
        or with the same one everywhere, is 0.

    Raises:
        UsageError: There is no image, an item is none, or the target is unknown.
    """
    check_images(images)
    if target not in get_args(Target):
        raise UsageError(f"target must be one of {', '.join(get_args(Target))}, got {target!r}")
    branches = model.config.embedding_branches
    collected: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in branches}
    # Gradients are needed whatever mode the caller is in.
    with inspected(model) as handles, torch.inference_mode(False), torch.enable_grad():
        seen: dict[str, Tensor] = {}
        if branches[-1] in model.dsa:
            handles.append(model.dsa[branches[-1]].register_forward_pre_hook(_catch_input(seen, branches[-1])))
        if "mfe" in branches:
            handles.append(model.mfe.register_forward_hook(_catch_last_level(seen)))
        for batch in input_batches(model, images):
            features = model.features(batch)
            for name in branches:
                explained = _explained(model, name, features[name], target)
                (gradient,) = torch.autograd.grad(explained.sum(), seen[name], retain_graph=name != branches[-1])
                maps = (gradient * seen[name]).sum(dim=1).relu()  # (B, h, w)
                collected[name].append(maps.detach().float().cpu().numpy())
    return {name: scale_to_unit(np.concatenate(parts)) for name, parts in collected.items()}


def activation_maps(
    model: HAT,
    images: Sequence[Image.Image],
    *,
    baseline: HAT | None = None,
    target: Target = "embedding",
    title: str = "Class activation maps",
) -> Image.Image:
    """Draw class activation maps: each image, the baseline's MFE, the model's MFE and its DSA.

    Args:
        model: The model; without a supervised MFE its column is left out.
        images: Decoded images.
        baseline: A model to compare with, of which the MFE is shown: one trained without aggregation, for example, or one whose
            CNN holds ImageNet weights alone. None leaves its column out.
        target: See `branch_activations`.
        title: One line in large type; empty for none.

    Returns:
        An RGB picture.

    Raises:
        UsageError: As `branch_activations`, or the baseline has no supervised MFE, or the picture would be enormous.
        MissingExtraError: matplotlib is not installed.
    """
    check_images(images)
    if baseline is not None and not baseline.config.mfe_supervision:
        raise UsageError(
            "the baseline has no supervised MFE, and so no map to show: give a model with mfe_supervision, or None"
        )
    size = tile_size(model.preprocessing.size)
    columns = [Column("Image", [image.convert("RGB").resize(size, Image.Resampling.LANCZOS) for image in images])]

    def add(caption: str, maps: npt.NDArray[Any]) -> None:
        tiles = [overlay(image, values, size) for image, values in zip(images, maps, strict=True)]
        columns.append(Column(caption, tiles))

    if baseline is not None:
        add("Baseline", branch_activations(baseline, images, target=target)["mfe"])
    for name, maps in branch_activations(model, images, target=target).items():
        add("MFE" if name == "mfe" else "DSA", maps)
    explained = "part of the embedding" if target == "embedding" else "highest logit"
    subtitle = (f"Gradient-weighted, of each branch's {explained};", "each map is scaled to its own range.")
    return draw_map_table(columns, title, subtitle)


def _catch_input(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def hook(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        seen[name] = _as_leaf(arguments[0])
        return (seen[name],)

    return hook


def _catch_last_level(seen: dict[str, Tensor]) -> Callable[[nn.Module, Any, list[Tensor]], list[Tensor]]:
    def hook(_: nn.Module, __: Any, levels: list[Tensor]) -> list[Tensor]:
        seen["mfe"] = _as_leaf(levels[-1])
        return [*levels[:-1], seen["mfe"]]

    return hook


def _as_leaf(feature_map: Tensor) -> Tensor:
    """Return the values as the start of a graph: nothing below is differentiated, and frozen parameters do not matter."""
    return feature_map.detach().requires_grad_()


def _explained(model: HAT, name: str, feature: Tensor, target: Target) -> Tensor:
    """Return the number y of each image, (B,)."""
    bn_feature = model.necks[name](feature)
    if target == "embedding":
        half_squares: Tensor = bn_feature.square().sum(dim=1) / 2
        return half_squares
    logits: Tensor = model.classifiers[name](bn_feature)
    return logits.amax(dim=1)

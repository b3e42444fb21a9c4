"""What each stage of the aggregation makes of an image: its averaged map (paper Fig. 6) and what its CLS attends to."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from hat.errors import UsageError
from hat.model import HAT
from hat.visual.color_map import colorize, overlay, scale_to_unit
from hat.visual.inspection import check_images, input_batches, inspected
from hat.visual.map_table import Column, draw_map_table, tile_size


def token_maps(model: HAT, images: Sequence[Image.Image]) -> dict[str, npt.NDArray[np.float32]]:
    """Compute the map that leaves each stage, averaged over its channels (paper Fig. 6).

    A stage's map is its calibrated tokens put back in their places and passed through NeA where the stage has one (Eq. 5). The
    mean is that of absolute values. After NeA none is negative; tokens of a stage without NeA come from a layer norm, and their
    plain mean over channels is about the same at every position.

    Args:
        model: The model, on any device; it is left as it was.
        images: Decoded images of any size; the model's own preprocessing resizes them.

    Returns:
        Stage name -> (n, h, w) float32 of at least 0, from the first stage to the last, (h, w) being the token grid.

    Raises:
        UsageError: There is no image, or an item is none.
    """

    def watch(stage: nn.Module, keep: Callable[[Tensor], None]) -> Any:
        return stage.register_forward_hook(lambda _, __, output: keep(output[1].abs().mean(dim=1)))

    return _collect(model, images, watch)


def cls_attention(model: HAT, images: Sequence[Image.Image]) -> dict[str, npt.NDArray[np.float32]]:
    """Compute how strongly each stage's CLS attends to every place: weights of the last block, averaged over heads (Eq. 1).

    Args:
        model: The model, on any device; it is left as it was.
        images: Decoded images of any size; the model's own preprocessing resizes them.

    Returns:
        Stage name -> (n, h, w) float32 of at least 0, from the first stage to the last, (h, w) being the token grid. The sum
        over the places is 1 less the weight that CLS gives to itself.

    Raises:
        UsageError: There is no image, or an item is none.
    """
    rows, columns = model.config.token_grid

    def watch(stage: nn.Module, keep: Callable[[Tensor], None]) -> Any:
        def hook(attention: Any, arguments: tuple[Tensor, ...]) -> None:
            weights = attention.weights(arguments[0])[:, :, 0, 1:]  # (B, heads, h*w)
            keep(weights.mean(dim=1).unflatten(1, (rows, columns)))

        return stage.blocks[-1].attention.register_forward_pre_hook(hook)  # type: ignore[index, union-attr]

    return _collect(model, images, watch)


def tfc_maps(
    model: HAT, images: Sequence[Image.Image], *, attention: bool = True, title: str = "Calibrated maps by level"
) -> Image.Image:
    """Draw the stages: each image, the averaged map of every stage, and what every stage's CLS attends to.

    Args:
        model: The model.
        images: Decoded images.
        attention: Show the attention of CLS too.
        title: One line in large type; empty for none.

    Returns:
        An RGB picture. Every map is scaled to its own range; averaged maps are painted alone, attention over the image in gray.

    Raises:
        UsageError: There is no image, an item is none, or the picture would be enormous.
        MissingExtraError: matplotlib is not installed.
    """
    check_images(images)
    size = tile_size(model.preprocessing.size)
    columns = [Column("Image", [image.convert("RGB").resize(size, Image.Resampling.LANCZOS) for image in images])]
    for name, maps in token_maps(model, images).items():
        tiles = [colorize(values, size) for values in scale_to_unit(maps)]
        columns.append(Column(name.upper(), tiles, group="mean of channels"))
    if attention:
        for name, maps in cls_attention(model, images).items():
            tiles = [overlay(image, values, size) for image, values in zip(images, scale_to_unit(maps), strict=True)]
            columns.append(Column(name.upper(), tiles, group="attention of CLS"))
    return draw_map_table(columns, title, ("Each map is scaled to its own range.",))


def _collect(
    model: HAT, images: Sequence[Image.Image], watch: Callable[[nn.Module, Callable[[Tensor], None]], Any]
) -> dict[str, npt.NDArray[np.float32]]:
    """Run the images with a hook on every stage that hands (B, h, w) maps to ``keep``; return these by stage."""
    check_images(images)
    if not model.dsa:
        raise UsageError("the model has no TFC stage to look into: its depths are (0, 0, 0, 0)")
    kept: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in model.dsa}
    with inspected(model) as handles, torch.no_grad():
        for name, stage in model.dsa.items():
            parts = kept[name]

            def keep(maps: Tensor, parts: list[npt.NDArray[np.float32]] = parts) -> None:
                parts.append(maps.detach().float().cpu().numpy())

            handles.append(watch(stage, keep))
        for batch in input_batches(model, images):
            model.features(batch)
    return {name: np.concatenate(parts) for name, parts in kept.items()}

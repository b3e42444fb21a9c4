"""What the model looks at, for a query and a match side by side: tiles of `hat.visual`, as rows for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from hat.model import HAT
from hat.visual import branch_activations, cls_attention, colorize, overlay, scale_to_unit, token_maps

__all__ = ["MapColumn", "look_inside"]

_TILE_HEIGHT = 256


@dataclass(frozen=True, eq=False)
class MapColumn:
    """One kind of map, of every image.

    Attributes:
        group: What it has in common with its neighbors.
        name: What is over it.
        tiles: One picture for each image.
    """

    group: str
    name: str
    tiles: tuple[Image.Image, ...]


def look_inside(model: HAT, images: Sequence[Image.Image]) -> list[MapColumn]:
    """Maps of every kind for several images; nothing else may run the model meanwhile.

    Args:
        model: The model.
        images: Decoded images of people.

    Returns:
        The images as the model gets them, class activation of the MFE and the DSA, the attention of each stage's CLS, and the
        averaged map of each stage. Every map is scaled to its own range.

    Raises:
        UsageError: There is no image.
    """
    height, width = model.preprocessing.size
    size = (max(1, round(_TILE_HEIGHT * width / height)), _TILE_HEIGHT)
    columns = [MapColumn("", "Image", tuple(image.convert("RGB").resize(size, Image.Resampling.LANCZOS) for image in images))]
    for name, maps in branch_activations(model, images).items():
        tiles = tuple(overlay(image, values, size) for image, values in zip(images, maps, strict=True))
        columns.append(MapColumn("class activation", "MFE" if name == "mfe" else "DSA", tiles))
    for name, maps in cls_attention(model, images).items():
        tiles = tuple(overlay(image, values, size) for image, values in zip(images, scale_to_unit(maps), strict=True))
        columns.append(MapColumn("attention of CLS", name.upper(), tiles))
    for name, maps in token_maps(model, images).items():
        tiles = tuple(colorize(values, size) for values in scale_to_unit(maps))
        columns.append(MapColumn("averaged map", name.upper(), tiles))
    return columns

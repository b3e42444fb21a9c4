"""Random changes of a batch of uint8 images, on the device that holds it and for all images at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import AugmentationConfig
from .randomness import uniforms

__all__ = ["Augmentation", "Changes", "draw_changes", "erase", "jitter_colors", "pad_crop_flip", "to_grayscale"]

_NUM_TRIES = 10
"""Rectangles drawn until one fits; about every third does not, so that none does once in 50,000 images."""

_GRAY = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601), as Pillow's conversion to "L" has them."""


class Changes(NamedTuple):
    """What is to be done to each image of a batch."""

    top: Tensor
    """(B,) int64, first row of the crop in the padded image."""

    left: Tensor
    """(B,) int64, first column of the crop in the padded image."""

    flip: Tensor
    """(B,) bool."""

    box: Tensor
    """(B, 4) int64, rectangle to be erased: top, left, height, width; height and width 0 where none is."""

    grayscale: Tensor
    """(B,) bool."""

    factors: Tensor
    """(B, 3) float32, of brightness, contrast and saturation."""


class Augmentation:
    """Changes batches at random.

    Args:
        config: Probabilities and sizes.
        mean: Mean color of the preprocessing, RGB in [0, 1], which fills erased rectangles.
        seed: The run's seed.
    """

    def __init__(self, config: AugmentationConfig, mean: tuple[float, float, float], seed: int) -> None:
        self.config = config
        self.fill = tuple(round(255 * channel) for channel in mean)
        self.seed = seed

    def __call__(self, images: Tensor, epoch: int, positions: Tensor) -> Tensor:
        """Change a batch.

        Args:
            images: (B, 3, H, W) uint8 RGB.
            epoch: The epoch, counted from 0.
            positions: (B,) int64, the images' positions in the epoch's global sequence; they alone decide what is drawn.

        Returns:
            (B, 3, H, W) uint8 RGB, a new tensor.
        """
        config = self.config
        height, width = images.shape[-2:]
        numbers = uniforms(self.seed, epoch, positions.to(images.device), _NUM_DRAWS)
        changes = draw_changes(config, numbers, height, width)
        images = pad_crop_flip(images, changes.top, changes.left, changes.flip, config.pad)
        if config.brightness or config.contrast or config.saturation:
            images = jitter_colors(images, changes.factors)
        if config.grayscale:
            images = to_grayscale(images, changes.grayscale)
        if config.erasing:
            images = erase(images, changes.box, self.fill)
        return images


_NUM_DRAWS = 10 + 2 * _NUM_TRIES


def draw_changes(config: AugmentationConfig, numbers: Tensor, height: int, width: int) -> Changes:
    """Turn uniform numbers into changes.

    A rectangle to be erased has a part of the image's area and a ratio of height to width, both uniform within their bounds
    (Zhong et al., "Random Erasing Data Augmentation"); the first of several tries that fits into the image is taken.

    Args:
        config: Probabilities and sizes.
        numbers: (B, 30) float32 in [0, 1).
        height: Height of the images.
        width: Width of the images.

    Returns:
        One change for each row of ``numbers``.
    """
    num_places = 2 * config.pad + 1
    area = _between(numbers[:, 10 : 10 + _NUM_TRIES], *config.erasing_area) * (height * width)  # (B, tries)
    ratio = _between(numbers[:, 10 + _NUM_TRIES :], *config.erasing_ratio)
    heights = torch.sqrt(area * ratio).round().long()
    widths = torch.sqrt(area / ratio).round().long()
    fits = (heights >= 1) & (heights < height) & (widths >= 1) & (widths < width)
    first = fits.int().argmax(dim=1, keepdim=True)  # (B, 1), the first True
    erased = (numbers[:, 3] < config.erasing) & fits.any(dim=1)
    box_height = heights.gather(1, first).squeeze(1) * erased
    box_width = widths.gather(1, first).squeeze(1) * erased
    box_top = (numbers[:, 4] * (height - box_height + 1)).long()
    box_left = (numbers[:, 5] * (width - box_width + 1)).long()
    spread = torch.tensor([config.brightness, config.contrast, config.saturation], device=numbers.device)
    return Changes(
        top=(numbers[:, 0] * num_places).long(),
        left=(numbers[:, 1] * num_places).long(),
        flip=numbers[:, 2] < config.flip,
        box=torch.stack([box_top, box_left, box_height, box_width], dim=1),
        grayscale=numbers[:, 6] < config.grayscale,
        factors=1 + (2 * numbers[:, 7:10] - 1) * spread,
    )


def pad_crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Pad with black, cut out the original size at (top, left), and mirror where asked; one gather for all three.

    Args:
        images: (B, 3, H, W) uint8.
        top: (B,) int64 in [0, 2 * pad].
        left: (B,) int64 in [0, 2 * pad].
        flip: (B,) bool.
        pad: Pixels on each side.

    Returns:
        (B, 3, H, W) uint8.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad)) if pad else images
    columns = torch.arange(width, device=images.device)
    mirrored = torch.where(flip[:, None], width - 1 - columns, columns) + left[:, None]  # (B, W)
    rows = torch.arange(height, device=images.device) + top[:, None]  # (B, H)
    places = rows[:, :, None] * padded.shape[-1] + mirrored[:, None, :]  # (B, H, W), into the padded image's pixels
    # Six times as fast on a CPU as indexing with rows and columns.
    taken = padded.flatten(2).gather(2, places.view(batch, 1, -1).expand(-1, channels, -1))  # (B, 3, H * W)
    return taken.view(images.shape)


def erase(images: Tensor, box: Tensor, fill: tuple[int, ...]) -> Tensor:
    """Fill rectangles with one color.

    Args:
        images: (B, 3, H, W) uint8.
        box: (B, 4) int64: top, left, height, width.
        fill: RGB, 0-255.

    Returns:
        (B, 3, H, W) uint8.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    top, left, box_height, box_width = (side[:, None] for side in box.unbind(dim=1))  # each (B, 1)
    in_rows = (rows >= top) & (rows < top + box_height)  # (B, H)
    in_columns = (columns >= left) & (columns < left + box_width)  # (B, W)
    inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # (B, 1, H, W)
    color = torch.tensor(fill, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
    return torch.where(inside, color, images)


def to_grayscale(images: Tensor, chosen: Tensor) -> Tensor:
    """Take the colors away from chosen images.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        chosen: (B,) bool.

    Returns:
        (B, 3, H, W) uint8.
    """
    gray = _luma(images.float()).round().to(images.dtype)  # (B, 1, H, W)
    return torch.where(chosen[:, None, None, None], gray, images)


def jitter_colors(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation, in this order.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        factors: (B, 3) float32, 1 changes nothing.

    Returns:
        (B, 3, H, W) uint8.
    """
    brightness, contrast, saturation = (factor[:, None, None, None] for factor in factors.unbind(dim=1))  # each (B, 1, 1, 1)
    pixels = (images.float() * brightness).clamp_(0, 255)
    mean_gray = _luma(pixels).mean(dim=(2, 3), keepdim=True)  # (B, 1, 1, 1)
    pixels = torch.lerp(mean_gray, pixels, contrast).clamp_(0, 255)
    pixels = torch.lerp(_luma(pixels), pixels, saturation).clamp_(0, 255)
    return pixels.round_().to(images.dtype)


def _luma(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.unbind(dim=1)
    return (_GRAY[0] * red + _GRAY[1] * green + _GRAY[2] * blue)[:, None]  # (B, 1, H, W)


def _between(numbers: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * numbers

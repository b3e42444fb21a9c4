"""Random changes of a batch of uint8 images, on the device that holds it and for all images at once."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import AugmentationConfig
from .randomness import uniforms

_NUM_TRIES = 10
"""Rectangles drawn until one fits; about every third does not, so that none does once in 50,000 images."""

NUM_DRAWS = 13 + 2 * _NUM_TRIES
"""Uniform numbers that an image needs."""

_LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601), as Pillow's conversion to "L" has them."""


class AugmentationParams(NamedTuple):
    """Augmentation parameters of each image of a batch."""

    top: Tensor  # (B,) int64, first row of the crop in the padded image
    left: Tensor  # (B,) int64, its first column
    flip: Tensor  # (B,) bool
    box: Tensor  # (B, 4) int64, rectangle to be erased: top, left, height, width; the last two 0 where none is
    grayscale: Tensor  # (B,) bool
    jitter: Tensor  # (B, 4) float32: factors of brightness, contrast and saturation, and the turn of the hue
    blur: Tensor  # (B,) bool
    sigma: Tensor  # (B,) float32, standard deviation of the blur in pixels


class Augmentation:
    """Changes batches at random; erased rectangles are filled with the preprocessing's mean color, RGB in [0, 1]."""

    def __init__(self, config: AugmentationConfig, mean: tuple[float, float, float], seed: int) -> None:
        self.config = config
        self.fill = tuple(round(255 * channel) for channel in mean)
        self.seed = seed

    def __call__(self, images: Tensor, epoch: int, positions: Tensor) -> Tensor:
        """Change a batch (B, 3, H, W) uint8 RGB into a new one.

        The images' ``positions`` (B,) in the epoch's global sequence alone decide what is drawn; epochs count from 0.
        """
        config = self.config
        height, width = images.shape[-2:]
        numbers = uniforms(self.seed, epoch, positions.to(images.device), NUM_DRAWS)
        params = sample_params(config, numbers, height, width)
        images = pad_crop_flip(images, params.top, params.left, params.flip, config.pad)
        if config.brightness or config.contrast or config.saturation or config.hue:
            images = color_jitter(images, params.jitter, turn_hue=config.hue > 0)
        if config.grayscale:
            images = _change_some(images, params.grayscale, to_grayscale)
        if config.blur:
            radius = min(math.ceil(3 * config.blur_sigma[1]), height - 1, width - 1)
            images = _change_some(images, params.blur, lambda some, sigma: gaussian_blur(some, sigma, radius), params.sigma)
        if config.erasing:
            images = erase(images, params.box, self.fill)
        return images


def sample_params(config: AugmentationConfig, numbers: Tensor, height: int, width: int) -> AugmentationParams:
    """Turn uniform numbers (B, NUM_DRAWS) in [0, 1) into changes.

    A rectangle to be erased has a part of the image's area and a ratio of height to width, both uniform within their bounds
    (Zhong et al., "Random Erasing Data Augmentation"); the first of several tries that fits into the image is taken.
    """
    num_offsets = 2 * config.pad + 1
    area_draws, ratio_draws = numbers[:, 10 : 10 + 2 * _NUM_TRIES].chunk(2, dim=1)  # each (B, tries)
    area = _between(area_draws, config.erasing_area) * (height * width)
    ratio = _between(ratio_draws, config.erasing_ratio)
    heights = torch.sqrt(area * ratio).round().long()
    widths = torch.sqrt(area / ratio).round().long()
    fits = (heights >= 1) & (heights < height) & (widths >= 1) & (widths < width)
    first = fits.int().argmax(dim=1, keepdim=True)  # (B, 1), the first True
    erased = (numbers[:, 3] < config.erasing) & fits.any(dim=1)
    box_height = heights.gather(1, first).squeeze(1) * erased
    box_width = widths.gather(1, first).squeeze(1) * erased
    box_top = (numbers[:, 4] * (height - box_height + 1)).long()
    box_left = (numbers[:, 5] * (width - box_width + 1)).long()
    hue, blur, sigma = numbers[:, 10 + 2 * _NUM_TRIES :].unbind(dim=1)
    spreads = (config.brightness, config.contrast, config.saturation)
    jitter = [1 + (2 * numbers[:, 7 + index] - 1) * spread for index, spread in enumerate(spreads)]
    return AugmentationParams(
        top=(numbers[:, 0] * num_offsets).long(),
        left=(numbers[:, 1] * num_offsets).long(),
        flip=numbers[:, 2] < config.flip,
        box=torch.stack([box_top, box_left, box_height, box_width], dim=1),
        grayscale=numbers[:, 6] < config.grayscale,
        jitter=torch.stack([*jitter, (2 * hue - 1) * config.hue], dim=1),
        blur=blur < config.blur,
        sigma=_between(sigma, config.blur_sigma),
    )


def pad_crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Pad (B, 3, H, W) with black, cut the original size out at (top, left), mirror where asked; one gather for all three."""
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
    """Fill rectangles (B, 4), top, left, height and width, of images (B, 3, H, W) with one RGB color, 0-255."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    top, left, box_height, box_width = (side[:, None] for side in box.unbind(dim=1))  # each (B, 1)
    in_rows = (rows >= top) & (rows < top + box_height)  # (B, H)
    in_columns = (columns >= left) & (columns < left + box_width)  # (B, W)
    inside = in_rows[:, :, None] & in_columns[:, None, :]  # (B, H, W)
    # Channel by channel with plain numbers: a tensor of the color would be copied to the device in every step.
    filled = [torch.where(inside, value, channel) for value, channel in zip(fill, images.unbind(dim=1), strict=True)]
    return torch.stack(filled, dim=1)


def to_grayscale(images: Tensor) -> Tensor:
    """Replace colors by their luma: (B, 3, H, W) uint8 RGB to the same shape."""
    return _luma(images.float()).round_().to(images.dtype).expand_as(images)


def color_jitter(images: Tensor, factors: Tensor, *, turn_hue: bool = True) -> Tensor:
    """Change brightness, contrast, saturation and hue of (B, 3, H, W) uint8 RGB, in this order.

    ``factors`` (B, 4) float32 are three factors, of which 1 changes nothing, and the turn of the hue in parts of the circle.
    """
    brightness, contrast, saturation, hue = (factor[:, None, None, None] for factor in factors.unbind(dim=1))  # (B, 1, 1, 1)
    pixels = (images.float() * brightness).clamp_(0, 255)
    mean_gray = _luma(pixels).mean(dim=(2, 3), keepdim=True)  # (B, 1, 1, 1)
    pixels = torch.lerp(mean_gray, pixels, contrast).clamp_(0, 255)
    pixels = torch.lerp(_luma(pixels), pixels, saturation).clamp_(0, 255)
    if turn_hue:
        pixels = _turn_hue(pixels, hue)
    return pixels.round_().to(images.dtype)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each image with its own Gaussian, ``sigma`` (B,) in pixels, cut off at ``radius`` and mirrored at the borders."""
    offsets = torch.arange(-radius, radius + 1, device=images.device) / sigma[:, None]  # (B, k)
    kernel = torch.exp(-0.5 * offsets.square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)  # (3B, k)
    pixels = F.pad(images.float(), (radius,) * 4, mode="reflect").flatten(0, 1)[None]  # (1, 3B, H + 2r, W + 2r)
    pixels = F.conv2d(pixels, kernel[:, None, :, None], groups=len(kernel))
    pixels = F.conv2d(pixels, kernel[:, None, None, :], groups=len(kernel))
    return pixels.view(images.shape).round_().clamp_(0, 255).to(images.dtype)


def _change_some(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *params: Tensor) -> Tensor:
    """Change the chosen images of a batch, each with its own row of ``params``."""
    if images.device.type == "cpu":
        rows = chosen.nonzero().squeeze(1)
        if not len(rows):
            return images
        return images.index_copy(0, rows, change(images[rows], *(param[rows] for param in params)))
    # To find them would let the device wait; it changes all of them faster.
    return torch.where(chosen[:, None, None, None], change(images, *params), images)


def _turn_hue(pixels: Tensor, turn: Tensor) -> Tensor:
    """Turn hues in HSV, with value and chroma as they are: (B, 3, H, W) RGB and (B, 1, 1, 1) parts of the circle."""
    red, green, blue = pixels.unbind(dim=1)  # each (B, H, W)
    value, lowest = pixels.amax(dim=1), pixels.amin(dim=1)
    chroma = value - lowest
    divisor = chroma.clamp(min=1e-6)  # gray has no hue, and any will do
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )  # hue in sixths of the circle, from red over green to blue
    sector = sector + 6 * turn.squeeze(1)
    # Each channel is the value less a part of the chroma, which depends on how far its own hue (red 5, green 3, blue 1) is.
    channels = []
    for own in (5, 3, 1):
        distance = (sector + own).remainder_(6)
        channels.append(value - chroma * torch.minimum(distance, 4 - distance).clamp_(0, 1))
    return torch.stack(channels, dim=1)


def _luma(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.unbind(dim=1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]  # (B, 1, H, W)


def _between(numbers: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return low + (high - low) * numbers

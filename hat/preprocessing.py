"""Preprocessing of images: one class, stored with the weights, used by everything that feeds a model.

The host's part is small on purpose: decode, convert to RGB, resize to (height, width), and keep uint8. Conversion to float,
normalization and everything after it belong to the model's graph, so that two runtimes cannot disagree about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from hat.config import config_dataclass

if TYPE_CHECKING:
    from torch import Tensor


IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training images by channel, RGB, for pixels in [0, 1]."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's training images by channel, RGB, for pixels in [0, 1]."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

PositiveFloat = Annotated[float, Field(gt=0)]


@config_dataclass
class Preprocessing:
    """Image preprocessing stored with a model."""

    height: int = 256
    """Height of the model's input in pixels."""

    width: int = 128
    """Width of the model's input in pixels."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from each channel (RGB, pixels in [0, 1])."""

    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = IMAGENET_STD
    """Each channel is divided by it after the mean is subtracted."""

    resize: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize; Pillow's own, which widens the filter when it shrinks an image (antialiasing)."""

    def __post_init__(self) -> None:
        if self.height < 16 or self.width < 16:
            raise ValueError(f"an input is at least 16 x 16 pixels, got {self.height} x {self.width}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        return (self.height, self.width)

    def resize_image(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Convert a decoded image of any mode and size to RGB and resize it: (H, W, 3) uint8, contiguous."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        if rgb.size != (self.width, self.height):
            rgb = rgb.resize((self.width, self.height), _FILTERS[self.resize])
        return np.array(rgb, dtype=np.uint8)

    def __call__(self, image: Image.Image) -> Tensor:
        """Convert a decoded image of any mode and size to RGB, resize it, and put the channels first: (3, H, W) uint8."""
        import torch  # not above: a host that only decodes and resizes does without it

        return torch.from_numpy(self.resize_image(image)).permute(2, 0, 1).contiguous()

    def normalize(self, images: Tensor) -> Tensor:
        """Scale to [0, 1], subtract the mean and divide by the standard deviation.

        Args:
            images: (B, 3, H, W) uint8, or floating point in the range 0-255; RGB.

        Returns:
            The same shape in floating point: float32 for uint8 input, the input's type otherwise.
        """
        import torch

        # All in place on one copy: three temporaries the size of a batch cost more than the arithmetic.
        pixels = images.clone() if images.is_floating_point() else images.float()
        mean = torch.tensor(self.mean, dtype=pixels.dtype, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, dtype=pixels.dtype, device=pixels.device).view(1, 3, 1, 1)
        return pixels.div_(255).sub_(mean).div_(std)

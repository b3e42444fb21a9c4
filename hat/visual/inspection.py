"""Looking inside a model and leaving it as it was: modes, switches and hooks are restored whatever happens in between."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from hat.errors import UsageError
from hat.model import HAT

_BATCH_SIZE = 16


@contextmanager
def inspected(model: HAT) -> Iterator[list[RemovableHandle]]:
    """Put a model into evaluation mode with every stage computed whole, so that hooks see all of its tokens.

    Nothing else may run the model meanwhile, from another thread for example.

    Args:
        model: The model.

    Yields:
        A list for the handles of hooks. Afterwards, also after an error, they are removed and the mode of each submodule and
        ``model.dsa.cls_only`` are what they were.
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


def check_images(images: Sequence[Image.Image]) -> None:
    """Refuse anything but a sequence of PIL images with at least one in it.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(images, Image.Image):
        raise UsageError("expected a sequence of images, got one: put it in a list")
    if not len(images):
        raise UsageError("expected at least one image, got none")
    kinds: set[type] = {type(item) for item in images}
    for kind in kinds:
        if not issubclass(kind, Image.Image):
            raise UsageError(f"expected PIL images, got {kind.__name__}; read files with hat.data.read_image")


def input_batches(model: HAT, images: Sequence[Image.Image]) -> Iterator[Tensor]:
    """Yield (B, 3, H, W) uint8 RGB batches of the images as the model's own preprocessing makes them, on its device."""
    device = next(model.parameters()).device
    for start in range(0, len(images), _BATCH_SIZE):
        yield torch.stack([model.preprocessing(image) for image in images[start : start + _BATCH_SIZE]]).to(device)

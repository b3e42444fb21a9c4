"""The CNN under HAT: torchvision's or timm's, cut into four levels (paper Sec. 3.1, Multi-scale Feature Extractor).

A family is one line in `_FAMILIES`: where torchvision keeps the layers, and after which of them a level ends. Layers keep the
names that they have in torchvision, so that its weights load unchanged.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hat.errors import MissingExtraError, ModelError
from hat.model.config import BackboneConfig


@dataclass(frozen=True)
class _Family:
    """Cut points of a family of torchvision's models."""

    members: tuple[str, ...]
    """Their names in torchvision."""
    taps: tuple[str, str, str, str]
    """Names of the layers after which Res2, Res3, Res4 and Res5 end."""
    trunk: str = ""
    """The attribute that holds the layers; empty where the model itself does."""
    options: tuple[tuple[str, Any], ...] = ()
    """Arguments of the constructor."""


_FAMILIES = (
    _Family(
        (
            *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
            *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
        ),
        ("layer1", "layer2", "layer3", "layer4"),
    ),
    _Family(
        ("googlenet",),
        ("conv3", "inception3b", "inception4e", "inception5b"),
        options=(("aux_logits", False), ("init_weights", False), ("transform_input", False)),
    ),
    _Family(("mobilenet_v2",), ("3", "6", "13", "18"), trunk="features"),
    _Family(("mobilenet_v3_large",), ("3", "6", "12", "16"), trunk="features"),
    _Family(("mobilenet_v3_small",), ("1", "3", "8", "12"), trunk="features"),
    _Family(("convnext_tiny", "convnext_small", "convnext_base"), ("1", "3", "5", "7"), trunk="features"),
)

_BY_NAME = {name: family for family in _FAMILIES for name in family.members}


class Backbone(nn.Module):
    """A CNN that gives one map for each level."""

    channels: tuple[int, ...]
    """Channels of the library's four levels, Res2 first, whether all are built or not."""
    weight_prefix: str
    """Prefix of these layers' names in the state dict of the library's whole model."""
    library_name: str
    """The model's name in its library."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to a list of (B, C_s, H_s, W_s) with strides 4, 8, 16 and 16 or 32."""
        raise NotImplementedError

    def layers_below(self, level: int) -> list[nn.Module]:
        """Return the layers up to and including a level, counted from 1 (Res2), where the model runs them in a row."""
        raise ModelError(f"{self.library_name} cannot be taken apart at level {level}: its levels are not layers in a row")


class TorchvisionBackbone(Backbone):
    """The first levels of a torchvision model: its layers run in order, a map is kept after each that its family taps."""

    def __init__(self, layers: dict[str, nn.Module], family: _Family, num_levels: int, library_name: str) -> None:
        super().__init__()
        self.taps = family.taps
        self.weight_prefix = f"{family.trunk}." if family.trunk else ""
        self.library_name = library_name
        names = list(layers)
        ends = [names.index(tap) + 1 for tap in self.taps]
        for name in names[: ends[-1]]:
            self.add_module(name, layers[name])
        self.channels = _probe_channels(self)
        for name in names[ends[num_levels - 1] : ends[-1]]:
            delattr(self, name)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        levels, x = [], images
        for name, layer in self.named_children():
            x = layer(x)
            if name in self.taps:
                levels.append(x)
        return levels

    def layers_below(self, level: int) -> list[nn.Module]:
        """See `Backbone.layers_below`."""
        layers, num_levels = [], 0
        for name, layer in self.named_children():
            if num_levels == level:
                break
            layers.append(layer)
            num_levels += name in self.taps
        return layers


class TimmBackbone(Backbone):
    """Feature maps of a timm model that was made with ``features_only=True``."""

    def __init__(self, features: nn.Module, channels: Sequence[int], library_name: str) -> None:
        super().__init__()
        self.features = features
        self.weight_prefix = ""
        self.library_name = library_name
        self.channels = tuple(channels)
        _probe_channels(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        return list(self.features(images))


def list_backbones() -> list[str]:
    """Return the names of torchvision's models that can be a backbone; besides these, ``timm/NAME`` where timm is installed."""
    return sorted(_BY_NAME)


def build_backbone(config: BackboneConfig, num_levels: int = 4) -> Backbone:
    """Build a CNN with random weights, up to a level counted from 1 (Res2).

    Raises:
        ModelError: The name is unknown, the model gives no maps at the strides that are needed, or an option does not apply to
            it.
        MissingExtraError: A ``timm/`` name without timm.
    """
    is_resnet = config.name in _FAMILIES[0].members
    for option, is_set in (("stem_relu", not config.stem_relu), ("stride_in_1x1", config.stride_in_1x1)):
        if is_set and not is_resnet:
            raise ModelError(f"backbone.{option} is an option of ResNets, and {config.name} is not one")
    if config.name.startswith("timm/"):
        return _build_timm(config, num_levels)
    family = _BY_NAME.get(config.name)
    if family is None:
        raise ModelError(f"unknown backbone {config.name!r}; known: {', '.join(list_backbones())}, or timm/NAME")
    model = getattr(import_torchvision("models"), config.name)(weights=None, **dict(family.options))
    layers = dict((getattr(model, family.trunk) if family.trunk else model).named_children())
    if config.stride_in_1x1:
        _move_strides_to_1x1(layers)
    if config.last_stride == 1 and num_levels == 4:
        _hold_resolution(layers, after=family.taps[2], model_name=config.name)
    if not config.stem_relu:
        del layers["relu"]
    return TorchvisionBackbone(layers, family, num_levels, config.name)


def _move_strides_to_1x1(layers: dict[str, nn.Module]) -> None:
    """Make a ResNet v1: the first 1x1 convolution of a bottleneck halves the map, not the 3x3 (v1.5)."""
    moved = 0
    for layer in layers.values():
        for block in layer.modules():
            if hasattr(block, "conv3") and block.conv2.stride == (2, 2):
                for convolution, stride in ((block.conv1, (2, 2)), (block.conv2, (1, 1))):
                    assert isinstance(convolution, nn.Conv2d)
                    convolution.stride = stride
                moved += 1
    if not moved:
        raise ModelError("backbone.stride_in_1x1 is an option of ResNets with bottleneck blocks (50 layers and more)")


def _hold_resolution(layers: dict[str, nn.Module], after: str, model_name: str) -> None:
    """Set every stride above a layer to 1, so that the last level keeps the map size of the one before it."""
    names = list(layers)
    for name in names[names.index(after) + 1 :]:
        layer = layers[name]
        if isinstance(layer, nn.MaxPool2d):
            layers[name] = nn.Identity()  # a 2x2 pooling with stride 1 would shift the map by half a pixel
            continue
        for module in layer.modules():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                if module.kernel_size[0] % 2 == 0:
                    raise ModelError(
                        f"{model_name} shrinks its last map by a {module.kernel_size[0]}x{module.kernel_size[1]} convolution, "
                        "which cannot run with stride 1: set backbone.last_stride to 2"
                    )
                module.stride = (1, 1)


def _build_timm(config: BackboneConfig, num_levels: int) -> Backbone:
    name = config.name.removeprefix("timm/")
    import_torchvision()  # timm imports torchvision itself; this way it also works where the compiled operators do not load
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", "timm", f"the backbone {config.name}") from None
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"{name[:6]}*")[:5])
        raise ModelError(f"timm has no model {name!r}" + (f"; near it are {near}" if near else ""))
    options = {"output_stride": 16} if config.last_stride == 1 else {}
    expected = [4, 8, 16, 16 if config.last_stride == 1 else 32]
    try:
        info = timm.create_model(name, features_only=True, pretrained=False, **options).feature_info
        reductions, channels = info.reduction(), info.channels()[-4:]
        indices = [len(reductions) - 4 + index for index in range(num_levels)]
        if list(reductions)[-4:] != expected:
            raise ModelError(f"timm/{name} gives maps at strides {list(reductions)}, a HAT needs {expected} as the last four")
        features = timm.create_model(name, features_only=True, pretrained=False, out_indices=indices, **options)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError, ValueError, AssertionError) as error:
        raise ModelError(f"timm/{name} cannot be a backbone with last_stride={config.last_stride}: {error}") from error
    return TimmBackbone(features, channels, name)


def _probe_channels(backbone: Backbone) -> tuple[int, ...]:
    """Read the channels of the levels of a new backbone from the maps that a small image gives."""
    with torch.no_grad():
        levels = backbone.eval()(torch.zeros(1, 3, 64, 64))
    backbone.train()
    sizes = [tuple(level.shape[-2:]) for level in levels]
    if any(level.dim() != 4 for level in levels) or sizes[:3] != [(16, 16), (8, 8), (4, 4)][: len(sizes)]:
        raise ModelError(
            f"{backbone.library_name} gives maps of shapes {[tuple(level.shape) for level in levels]} for a 64 x 64 image, "
            "expected (B, C, h, w) at strides 4, 8, 16"
        )
    return tuple(level.shape[1] for level in levels)


_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []


def import_torchvision(submodule: str = "") -> ModuleType:
    """Import torchvision, or a submodule of it such as ``"models"``, also where its compiled operators do not load.

    It registers shapes for its operators ``nms`` and ``qnms`` when it is imported. Beside a torch of another build (a CPU torch
    and the registry's torchvision; a vendor's torch on a Jetson) these are absent and the import ends with "operator
    torchvision::nms does not exist". Models, transforms and data sets need none of them, so it is enough to declare the two
    schemas and import again. The operators themselves, and torchvision's image decoders, stay absent.

    Raises:
        ImportError: torchvision is not installed, or fails for another reason.
    """
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared:
            raise ImportError(f"torchvision cannot be imported: {error}") from error
    for loaded in [key for key in sys.modules if key == "torchvision" or key.startswith("torchvision.")]:
        del sys.modules[loaded]
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)  # the declarations live as long as this object
    return importlib.import_module(name)

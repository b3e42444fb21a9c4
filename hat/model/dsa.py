"""Deeply Supervised Aggregation: the recursion over the CNN's levels (paper Sec. 3.3, Eq. 6) and the scaling before it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model.config import ModelConfig
from hat.model.tfc import TFC


def scale_map(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a level's map to the common size (Sec. 3.2): max pooling down, bilinear interpolation up.

    Args:
        feature_map: (B, C, h, w).
        size: (rows, columns) of the result; where they are smaller, h and w are multiples of them.

    Returns:
        (B, C, rows, columns).
    """
    height, width = feature_map.shape[-2:]
    if (height, width) == size:
        return feature_map
    if height > size[0]:
        return F.max_pool2d(feature_map, kernel_size=(height // size[0], width // size[1]))
    return F.interpolate(feature_map, size=size, mode="bilinear", align_corners=False)


def stage_widths(config: ModelConfig, channels: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """Return the widths of every stage.

    Args:
        config: The model's configuration.
        channels: Channels of the four levels, Res2 first.

    Returns:
        Level (1 to 4) -> (channels that enter the stage, width C_p of its tokens). By default a stage is as wide as what enters
        it, C_p = C_s + C_(s-1), and the last of several as wide as the CNN's last map; rounded up for heads to share it evenly.
        Differs: the paper's last stage would be C_p wide too; the released code brings it to 2048 by a linear layer.
    """
    widths: dict[int, tuple[int, int]] = {}
    carried = 0
    for level in config.levels:
        entering = channels[level - 1] + carried
        if config.widths is not None:
            width = config.widths[level - 1]
        else:
            width = channels[-1] if carried and level == config.levels[-1] else entering
            width += -width % config.transformer.width_unit
        widths[level] = (entering, width)
        carried = width
    return widths


class DSA(nn.ModuleDict):
    """The stages, from the finest level that is used to the coarsest: Z_s = TFC_s([X_s ; Z_(s-1)]) (Eq. 6).

    Without any stage, the paper's baseline, it gives no features.

    Args:
        config: The model's configuration.
        channels: Channels of the four levels, Res2 first.

    Attributes:
        cls_only: Compute of the last stage only what is read, its CLS. The same features and gradients with about a tenth
            fewer operations; off by default, so that the module is the paper's as it stands.
    """

    def __init__(self, config: ModelConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.cls_only = False
        self.downscale = config.downscale
        for level, (entering, width) in stage_widths(config, channels).items():
            is_last = level == config.levels[-1]
            self[f"tfc{level}"] = TFC(
                entering,
                width,
                config.depths[level - 1],
                config.token_grid,
                config.transformer,
                nea=config.nea and (config.last_nea or not is_last),
                reduction=config.bottleneck_reduction,
            )
            if is_last:
                # Nothing reads the last stage's map, so no gradient would ever reach its NeA; distributed training wants that
                # said.
                self[f"tfc{level}"].nea.requires_grad_(False)

    def forward(self, levels: dict[str, Tensor], image_size: tuple[int, int]) -> dict[str, Tensor]:
        """Aggregate.

        Args:
            levels: Stage name -> that level's map after its bottlenecks, (B, C, h, w), in the order of the stages.
            image_size: (height, width) of the images.

        Returns:
            Stage name -> the stage's feature, (B, C_p).
        """
        size = (image_size[0] // self.downscale, image_size[1] // self.downscale)
        features: dict[str, Tensor] = {}
        carried: Tensor | None = None
        for index, (name, stage) in enumerate(self.items(), start=1):
            assert isinstance(stage, TFC)
            level = scale_map(levels[name], size)
            entering = level if carried is None else torch.cat([level, carried], dim=1)
            if self.cls_only and index == len(self):
                features[name] = stage.forward_cls(entering)
            else:
                features[name], carried = stage(entering)
        return features

"""The aggregation: Transformer-based Feature Calibration, a stage of it (paper Sec. 3.2, Eq. 1-5), and the recursion over the
CNN's levels, Deeply Supervised Aggregation (Sec. 3.3, Eq. 6), with the scaling before it."""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model.config import ModelConfig, TransformerConfig
from hat.model.layers import ResidualBlock, TransformerBlock


def scale_map(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a level's map to the common size (Sec. 3.2), (B, C, h, w) to (B, C, rows, columns).

    Max pooling goes down, by whole factors, and bilinear interpolation up.
    """
    height, width = feature_map.shape[-2:]
    if (height, width) == size:
        return feature_map
    if height > size[0]:
        return F.max_pool2d(feature_map, kernel_size=(height // size[0], width // size[1]))
    return F.interpolate(feature_map, size=size, mode="bilinear", align_corners=False)


def stage_widths(config: ModelConfig, channels: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """Return level (1 to 4) -> (channels that enter the stage, width C_p of its tokens), for the channels of Res2 to Res5.

    By default a stage is as wide as what enters it, C_p = C_s + C_(s-1), and the last of several as wide as the CNN's last map;
    rounded up for heads to share it evenly. Differs: the paper's last stage would be C_p wide too; the released code brings it
    to 2048 by a linear layer.
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


def current_name(name: str) -> str:
    """Return today's name of a tensor of a checkpoint, which may have been written when the name was another one."""
    return re.sub(r"\b(tfc\d)\.to_tokens\.", r"\1.patch_embed.", name)


class TFC(nn.Module):
    """A stage: a map becomes tokens, CLS gathers what they say, and the calibrated tokens become a map for the next stage.

    It is given ``in_channels``, those of its level plus those of the stage before it, and has ``depth`` blocks (n_s) of tokens
    ``width`` wide (C_p). The position embedding is made for a map of ``grid`` (rows, columns). ``nea`` passes the outgoing map
    through the Neighborhood Adjustment (Eq. 5), ``reduction`` times narrower inside.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        depth: int,
        grid: tuple[int, int],
        transformer: TransformerConfig,
        *,
        nea: bool,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.patch_embed = nn.Linear(in_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], width))
        self.dropout = nn.Dropout(transformer.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, transformer) for _ in range(depth))
        self.nea: nn.Module = ResidualBlock(width, reduction) if nea else nn.Identity()
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.position_embedding, std=0.02)

    def embed(self, feature_map: Tensor) -> Tensor:
        """Compute the tokens that enter the first block, with a patch of one position: (B, C_in, h, w) to (B, 1 + h*w, C_p)."""
        tokens = self.patch_embed(feature_map.flatten(2).transpose(1, 2))  # (B, h*w, C_p), row by row
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)  # (B, 1 + h*w, C_p)
        rows, columns = feature_map.shape[-2:]
        embedded: Tensor = self.dropout(tokens + self.interpolate_pos_embed(rows, columns))
        return embedded

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Calibrate (B, C_in, h, w): the stage's feature, CLS, (B, C_p), and its map after NeA, (B, C_p, h, w)."""
        tokens = self.embed(feature_map)
        for block in self.blocks:
            tokens = block(tokens)
        calibrated = tokens[:, 1:].transpose(1, 2).unflatten(2, feature_map.shape[-2:])  # (B, C_p, h, w)
        return tokens[:, 0], self.nea(calibrated)

    def forward_cls(self, feature_map: Tensor) -> Tensor:
        """Compute the stage's feature alone, (B, C_in, h, w) to (B, C_p): the same CLS, the last block run for CLS only."""
        tokens = self.embed(feature_map)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        cls: Tensor = self.blocks[-1](tokens, num_queries=1)  # (B, 1, C_p)
        return cls[:, 0]

    def interpolate_pos_embed(self, rows: int, columns: int) -> Tensor:
        """Return the position embedding of a map, (1, 1 + rows*columns, C_p), interpolated where its own grid is another."""
        if (rows, columns) == self.grid:
            return self.position_embedding
        cls, grid = self.position_embedding[:, :1], self.position_embedding[:, 1:]
        grid = grid.transpose(1, 2).unflatten(2, self.grid)  # (1, C_p, h, w)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], *args: Any) -> None:
        for name in [name for name in state_dict if name != current_name(name)]:
            state_dict[current_name(name)] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, *args)


class DSA(nn.ModuleDict):
    """The stages, from the finest level that is used to the coarsest: Z_s = TFC_s([X_s ; Z_(s-1)]) (Eq. 6).

    Without any stage, the paper's baseline, it gives no features. With ``cls_only`` the last stage computes only what is read,
    its CLS: the same features and gradients with about a tenth fewer operations; off by default, so that the module is the
    paper's as it stands.
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
        """Aggregate stage name -> its level's map after the bottlenecks, (B, C, h, w), to stage name -> feature, (B, C_p)."""
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

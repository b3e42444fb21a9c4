"""Transformer-based Feature Calibration: one stage of HAT's aggregation (paper Sec. 3.2, Eq. 1-5)."""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model.config import TransformerConfig
from hat.model.layers import ResidualBlock
from hat.model.transformer import TransformerBlock


def current_name(name: str) -> str:
    """Return today's name of a tensor of a checkpoint, which may have been written when the name was another one."""
    return re.sub(r"\b(tfc\d)\.to_tokens\.", r"\1.patch_embed.", name)


class TFC(nn.Module):
    """A stage: a map becomes tokens, CLS gathers what they say, and the calibrated tokens become a map for the next stage.

    Args:
        in_channels: Channels of the map the stage is given: those of its level plus those of the stage before it.
        width: Width of its tokens, C_p.
        depth: Number of transformer blocks, n_s.
        grid: (rows, columns) of the map for which the position embedding is made.
        transformer: Configuration of the blocks.
        nea: Pass the outgoing map through the Neighborhood Adjustment (Eq. 5).
        reduction: How many times narrower NeA is inside.
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
        """Calibrate a map.

        Args:
            feature_map: (B, C_in, h, w), the level's map and the map of the stage before it, concatenated.

        Returns:
            The stage's feature, CLS, (B, C_p), and its map after NeA, (B, C_p, h, w).
        """
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

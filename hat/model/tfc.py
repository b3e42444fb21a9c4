"""Transformer-based feature calibration: one stage of HAT's aggregation (paper Sec. 3.2, Eq. 1-5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model.blocks import ResidualBlock
from hat.model.config import TransformerConfig
from hat.model.transformer import TransformerBlock

__all__ = ["TFC"]


class TFC(nn.Module):
    """A stage: a map becomes tokens, CLS gathers what they say, and the calibrated tokens become a map for the next stage.

    Args:
        in_channels: Channels of the map the stage is given: those of its level plus those of the stage before it.
        width: Width of its tokens, C_s.
        depth: Number of transformer blocks, L_s.
        grid: (rows, columns) of the map for which the position embedding is made.
        transformer: Configuration of the blocks.
        nea: Pass the outgoing map through neighborhood-enhanced aggregation (Eq. 5).
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
        self.to_tokens = nn.Linear(in_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], width))
        self.dropout = nn.Dropout(transformer.dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, transformer) for _ in range(depth))
        self.nea: nn.Module = ResidualBlock(width, reduction) if nea else nn.Identity()
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.position_embedding, std=0.02)

    def embed(self, feature_map: Tensor) -> Tensor:
        """Tokens that enter the first block (Eq. 1, with a patch of one position): (B, C_in, h, w) to (B, 1 + h*w, C)."""
        tokens = self.to_tokens(feature_map.flatten(2).transpose(1, 2))  # (B, h*w, C), row by row
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)  # (B, 1 + h*w, C)
        rows, columns = feature_map.shape[-2:]
        embedded: Tensor = self.dropout(tokens + self.positions(rows, columns))
        return embedded

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Calibrate a map.

        Args:
            feature_map: (B, C_in, h, w), the level's map and the map of the stage before it, concatenated.

        Returns:
            The stage's feature, CLS, (B, C), and its map after NeA, (B, C, h, w).
        """
        tokens = self.embed(feature_map)
        for block in self.blocks:
            tokens = block(tokens)
        calibrated = tokens[:, 1:].transpose(1, 2).unflatten(2, feature_map.shape[-2:])  # (B, C, h, w)
        return tokens[:, 0], self.nea(calibrated)

    def forward_cls(self, feature_map: Tensor) -> Tensor:
        """The stage's feature alone, (B, C_in, h, w) to (B, C): the same CLS, with the last block run for CLS only."""
        tokens = self.embed(feature_map)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        cls: Tensor = self.blocks[-1](tokens, num_queries=1)  # (B, 1, C)
        return cls[:, 0]

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embedding for a map of this size, (1, 1 + rows*columns, C); resampled where it was made for another grid."""
        if (rows, columns) == self.grid:
            return self.position_embedding
        cls, places = self.position_embedding[:, :1], self.position_embedding[:, 1:]
        places = places.transpose(1, 2).unflatten(2, self.grid)  # (1, C, h, w)
        places = F.interpolate(places, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([cls, places.flatten(2).transpose(1, 2)], dim=1)

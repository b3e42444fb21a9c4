"""Pictures of what a model does: ranked lists, class activation maps, and the maps of its stages."""

from .figures import RankedRow, Tile, draw_grid, rank_rows, ranked_list
from .maps import (
    activation_maps,
    branch_activations,
    cls_attention,
    color_table,
    colorize,
    overlay,
    scale_to_unit,
    tfc_maps,
    token_maps,
)

__all__ = [
    "RankedRow",
    "Tile",
    "activation_maps",
    "branch_activations",
    "cls_attention",
    "color_table",
    "colorize",
    "draw_grid",
    "overlay",
    "rank_rows",
    "ranked_list",
    "scale_to_unit",
    "tfc_maps",
    "token_maps",
]

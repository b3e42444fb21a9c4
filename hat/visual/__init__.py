"""Pictures of what a model does: ranked lists, class activation maps, and the maps of its stages."""

from hat.visual.activation_maps import activation_maps, branch_activations
from hat.visual.color_map import colorize, overlay, scale_to_unit
from hat.visual.ranked_list import ranked_list
from hat.visual.ranking_rows import RankedImage, RankedRow, rank_rows
from hat.visual.tfc_maps import cls_attention, tfc_maps, token_maps

__all__ = [
    "RankedImage",
    "RankedRow",
    "activation_maps",
    "branch_activations",
    "cls_attention",
    "colorize",
    "overlay",
    "rank_rows",
    "ranked_list",
    "scale_to_unit",
    "tfc_maps",
    "token_maps",
]

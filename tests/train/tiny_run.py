"""The smallest run that still has every part of a real one."""

from __future__ import annotations

from typing import Any

NUM_PIDS = 6
"""Identities of the data set that the fixture `market_folder` makes."""

TINY_MODEL: dict[str, Any] = {
    "image_size": [32, 16],
    "backbone": {"name": "mobilenet_v3_small"},
    "depths": [1, 0, 1, 0],
    "widths": [16, 16, 32, 32],
    "num_bottlenecks": 0,
    "transformer": {"num_heads": 2, "ffn_dim": 32},
}
TINY_RUN: dict[str, Any] = {
    "model": TINY_MODEL,
    "backbone_weights": "none",
    "num_epochs": 2,
    "sampler": {"num_identities": 4, "num_instances": 2},
    "augmentation": {"pad": 2},
    "schedule": {"kind": "constant", "warmup_epochs": 0},
    "log": {"every_steps": 1},
    "data": {"num_workers": 1},
}

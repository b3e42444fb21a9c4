"""Learning rates at exact moments."""

from __future__ import annotations

import math

import pytest

from hat.train.config import ScheduleConfig
from hat.train.optimizer import lr_scale


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 4e-6),
        (5, (4e-6 + 4e-4) / 2),
        (9.5, 4e-6 + 0.95 * (4e-4 - 4e-6)),
        (10, 4e-4),
        (49.999, 4e-4),
        (50, 4e-4 * 0.4),
        (70, 4e-4 * 0.4**2),
        (89.5, 4e-4 * 0.4**2),
        (90, 4e-4 * 0.4**3),
        (110, 4e-4 * 0.4**4),
        (130, 4e-4 * 0.4**5),
        (149.9, 4e-4 * 0.4**5),
    ],
)
def test_the_papers_schedule(epoch: float, lr: float) -> None:
    assert 4e-4 * lr_scale(ScheduleConfig(), epoch, 150) == pytest.approx(lr, rel=1e-12)


def test_cosine_after_a_warm_up() -> None:
    config = ScheduleConfig(kind="cosine", warmup_epochs=2, warmup_factor=0.1, final_factor=0.05)
    assert lr_scale(config, 0, 12) == pytest.approx(0.1)
    assert lr_scale(config, 1, 12) == pytest.approx(0.55)
    assert lr_scale(config, 2, 12) == pytest.approx(1)
    assert lr_scale(config, 7, 12) == pytest.approx((1 + 0.05) / 2)
    assert lr_scale(config, 4.5, 12) == pytest.approx(0.05 + 0.95 * (1 + math.cos(math.pi / 4)) / 2)
    assert lr_scale(config, 12, 12) == pytest.approx(0.05)


def test_constant_and_no_warm_up() -> None:
    config = ScheduleConfig(kind="constant", warmup_epochs=0)
    assert [lr_scale(config, epoch, 10) for epoch in (0, 3.3, 10)] == [1, 1, 1]

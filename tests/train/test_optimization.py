"""Parameter groups, the moving average, gradient accumulation and clipping."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tiny_run import TINY_RUN
from torch import Tensor, nn

from hat.model import HAT
from hat.preprocessing import Preprocessing
from hat.train.config import EMAConfig, OptimConfig, TrainConfig
from hat.train.cpu_kernels import CpuKernels
from hat.train.distributed import Place
from hat.train.ema import MovingAverage
from hat.train.losses import hat_loss
from hat.train.optimization import build_optimizer, parameter_groups, set_learning_rate
from hat.train.presets import compose_config
from hat.train.step import Batch, TrainingStep

CPU = Place(torch.device("cpu"))


class Output(NamedTuple):
    feature: Tensor
    logits: Tensor


class Plain(nn.Module):
    """A model without batch norm and dropout, so that two batches are the sum of their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.mfe = nn.Linear(3 * 32 * 16, 8)
        self.dsa = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 4, bias=False)

    def forward(self, images: Tensor) -> dict[str, Output]:
        first = self.mfe(images.flatten(1))
        second = self.dsa(first.relu())
        return {name: Output(feature, self.classifier(feature)) for name, feature in (("mfe", first), ("tfc1", second))}


def configure(**changes: Any) -> TrainConfig:
    return compose_config([("", TINY_RUN), ("", changes)])


def some_batch(seed: int, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, 3, 32, 16), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(size) % 4, torch.arange(size) + 100 * seed, torch.arange(size))


@pytest.fixture
def tiny() -> HAT:
    torch.manual_seed(0)
    return HAT(configure().model, 5)


def test_the_tfc_stages_learn_at_half_the_rate(tiny: HAT) -> None:
    optimizer = build_optimizer(tiny, OptimConfig())
    set_learning_rate(optimizer, 1e-3, 0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in tiny.named_parameters():
        if parameter.requires_grad:
            assert rates.pop(id(parameter)) == pytest.approx(0.5e-3 if name.startswith("dsa.") else 1e-3), name
    assert not rates, "frozen parameters are in no group"
    assert any(name.startswith("dsa.") for name, _ in tiny.named_parameters())


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_backbone_can_begin_later(name: str) -> None:
    torch.manual_seed(0)
    model = Plain()
    optim = {"name": name, "lr": 1e-2, "backbone_frozen_epochs": 2}
    step = TrainingStep(model, Preprocessing(height=32, width=16), configure(optim=optim), CPU)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for epoch in range(3):
        step([some_batch(epoch)], epoch, 0, 1e-2)
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        rest = {"dsa.weight", "dsa.bias", "classifier.weight"}
        assert moved == (rest if epoch < 2 else rest | {"mfe.weight", "mfe.bias"}), epoch


def test_decay_can_leave_norms_and_biases_out(tiny: HAT) -> None:
    assert {group["weight_decay"] for group in parameter_groups(tiny, OptimConfig())} == {5e-4}
    groups = parameter_groups(tiny, OptimConfig(decay_norms_and_biases=False))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in tiny.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and not name.endswith(("cls_token", "position_embedding"))
            assert decay[id(parameter)] == (5e-4 if plain else 0), name
    assert len(groups) == 4


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_equals_torchs_plain_optimizer(name: str) -> None:
    config = OptimConfig(name=name, lr=0.01, tfc_rate_factor=1.0, weight_decay=0.1)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options = {"momentum": 0.9} if name == "sgd" else {}
    torch.manual_seed(0)
    ours, theirs = Plain(), Plain()
    theirs.load_state_dict(ours.state_dict())
    pair = (
        build_optimizer(ours, config),
        kinds[name](theirs.parameters(), lr=0.01, weight_decay=0.1, foreach=False, **options),
    )
    for seed in range(3):
        for model, optimizer in zip((ours, theirs), pair, strict=True):
            optimizer.zero_grad()
            sum(output.logits.square().sum() for output in model(some_batch(seed).images.float() / 255).values()).backward()
            optimizer.step()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_moving_average_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    average = MovingAverage(model, EMAConfig(enabled=True, decay=0.9, warmup=False))
    expected = 1.0
    for step in range(3):
        with torch.no_grad():
            model[0].weight.fill_(10.0 * step)
            model[1].running_mean.fill_(1.0)
            model[1].num_batches_tracked.fill_(step)
        average.update(model)
        expected = 0.9 * expected + 0.1 * 10.0 * step
    assert average.model[0].weight.item() == pytest.approx(expected)
    assert average.model[1].running_mean.item() == pytest.approx(1 - 0.9**3)
    assert average.model[1].num_batches_tracked.item() == 2
    assert not average.model.training and not average.model[0].weight.requires_grad


def test_moving_average_begins_with_a_smaller_decay() -> None:
    average = MovingAverage(nn.Linear(1, 1), EMAConfig(enabled=True, decay=0.99))
    assert [average.decay(n) for n in (0, 8, 10**6)] == [pytest.approx(0.1), pytest.approx(0.5), 0.99]


def test_accumulated_gradients_are_the_mean_over_batches() -> None:
    torch.manual_seed(0)
    model = Plain()
    config = configure(
        optim={"name": "sgd", "lr": 0.1, "momentum": 0, "weight_decay": 0, "tfc_rate_factor": 1, "accumulate": 3}
    )
    step = TrainingStep(copy.deepcopy(model), Preprocessing(height=32, width=16), config, CPU)
    batches = [some_batch(seed) for seed in range(3)]
    figures = step(batches, 0, 0, 0.1)

    seen = [step.augmentation(batch.images, 0, batch.positions) for batch in batches]
    losses = [
        hat_loss(model(step.prepare(images)), batch.pids, config.loss) for images, batch in zip(seen, batches, strict=True)
    ]
    mean = sum(loss.total for loss in losses) / 3
    mean.backward()
    assert figures["loss"].item() == pytest.approx(mean.item(), rel=1e-6)
    assert figures["tfc1_ce"].item() == pytest.approx(sum(loss.parts["tfc1_ce"].item() for loss in losses) / 3, rel=1e-6)
    for found, before in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, before - 0.1 * before.grad, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_step() -> None:
    torch.manual_seed(0)
    model = Plain()
    optim = {"name": "sgd", "momentum": 0, "weight_decay": 0, "tfc_rate_factor": 1, "clip_grad_norm": 0.01}
    step = TrainingStep(copy.deepcopy(model), Preprocessing(height=32, width=16), configure(optim=optim), CPU)
    figures = step([some_batch(0)], 0, 0, 1.0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(step.model.parameters(), model.parameters(), strict=True)])
    assert figures["grad_norm"].item() > 0.1
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def losses_of(precision: str, num_steps: int) -> Tensor:
    torch.manual_seed(0)
    config = configure(compute={"precision": precision, "channels_last": True}, optim={"lr": 1e-3})
    step = TrainingStep(Plain(), Preprocessing(height=32, width=16), config, CPU)
    losses = torch.stack([step([some_batch(0)], 0, 0, 1e-3)["loss"] for _ in range(num_steps)])
    assert losses.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in step.model.parameters())
    assert step.scaler.is_enabled() == (precision == "fp16")
    return losses


def test_bfloat16_stays_near_full_precision() -> None:
    full, half = losses_of("fp32", 5), losses_of("bf16", 5)
    assert full[-1] < full[0] - 0.2
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)


def test_float16_scales_the_loss_and_gets_over_overflows() -> None:
    full, half = losses_of("fp32", 15), losses_of("fp16", 15)
    assert half[0].item() == pytest.approx(full[0].item(), rel=0.01)
    # The first scales are too large on purpose, and those steps are left out.
    assert torch.isfinite(half).all() and half[-1] < full[4]


def test_dropout_follows_seed_epoch_step_and_rank(tiny: HAT) -> None:
    def loss(epoch: int, step: int, rank: int = 0, seed: int = 0) -> float:
        config = configure(seed=seed, augmentation={"pad": 0, "flip": 0, "erasing": 0})
        training = TrainingStep(copy.deepcopy(tiny), tiny.preprocessing, config, Place(torch.device("cpu"), rank=rank))
        return training([some_batch(0)], epoch, step, 1e-3)["loss"].item()

    first = loss(0, 0)
    assert loss(0, 0) == first
    assert len({first, loss(1, 0), loss(0, 1), loss(0, 0, rank=1), loss(0, 0, seed=1)}) == 5


def test_slow_bfloat16_operations_run_in_float32() -> None:
    torch.manual_seed(0)
    images, depthwise, full = torch.randn(2, 8, 5, 5), torch.randn(8, 1, 3, 3), torch.randn(4, 8, 3, 3)
    tokens = torch.randn(2, 2, 6, 4)
    half, half_tokens = images.bfloat16(), tokens.bfloat16()
    seen = []
    for context in (nullcontext(), CpuKernels()):
        with torch.autocast("cpu", dtype=torch.bfloat16), context:
            found = [
                F.conv2d(half, depthwise, None, 1, 1, 1, 8),
                F.scaled_dot_product_attention(half_tokens, half_tokens, half_tokens),
                F.conv2d(half, full),
            ]
        assert all(value.dtype == torch.bfloat16 for value in found)
        seen.append(found)
    exact = [
        F.conv2d(half.float(), depthwise, None, 1, 1, 1, 8),
        F.scaled_dot_product_attention(*[half_tokens.float()] * 3),
    ]
    for value, expected in zip(seen[1][:2], exact, strict=True):
        assert torch.equal(value, expected.bfloat16())
    assert not torch.equal(seen[0][0], seen[1][0]), "the weights were not rounded to bfloat16"
    assert torch.equal(seen[0][2], seen[1][2])

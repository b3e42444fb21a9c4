"""Which weights learn and how fast: groups, frozen levels, schedule, moving average, accumulation, precision, CPU kernels."""

import copy
import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny_run import CPU, NO_AUGMENTATION, FixedTeacher, Plain, configure, some_batch
from torch import nn

import hat
from hat.errors import ConfigError, ModelError
from hat.model import HAT
from hat.preprocessing import Preprocessing
from hat.train.config import EMAConfig, OptimConfig, ScheduleConfig, TrainConfig
from hat.train.cpu_kernels import CpuKernels, dropout
from hat.train.distillation import Distillation
from hat.train.distributed import DistributedContext
from hat.train.losses import hat_loss
from hat.train.optimizer import ModelEma, build_optimizer, lr_scale, parameter_groups, set_learning_rate, training_mode
from hat.train.step import Batch, TrainingStep


def plain_step(model=None, **changes):
    return TrainingStep(model or Plain(), Preprocessing(height=32, width=16), configure(**changes), CPU)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return HAT(configure().model, 5)


def test_the_tfc_stages_learn_at_half_the_rate(tiny):
    optimizer = build_optimizer(tiny, OptimConfig())
    set_learning_rate(optimizer, 1e-3, 0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in tiny.named_parameters():
        if parameter.requires_grad:
            assert rates.pop(id(parameter)) == pytest.approx(0.5e-3 if name.startswith("dsa.") else 1e-3), name
    assert not rates, "frozen parameters are in no group"
    assert any(name.startswith("dsa.") for name, _ in tiny.named_parameters())


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_backbone_can_begin_later(name):
    torch.manual_seed(0)
    model = Plain()
    step = plain_step(model, optim={"name": name, "lr": 1e-2, "backbone_frozen_epochs": 2})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for epoch in range(3):
        step([some_batch(epoch)], epoch, 0, 1e-2)
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        rest = {"dsa.weight", "dsa.bias", "classifier.weight"}
        assert moved == (rest if epoch < 2 else rest | {"mfe.weight", "mfe.bias"}), epoch


@pytest.mark.parametrize("num_levels", [0, 1, 2, 4])
def test_frozen_levels_stay_and_the_rest_learns(tiny_model, num_levels):
    below = {id(layer) for layer in tiny_model.mfe.layers_below(num_levels)} if num_levels else set()
    frozen = {f"mfe.{name}." for name, layer in tiny_model.mfe.named_children() if id(layer) in below}
    before = copy.deepcopy(tiny_model.state_dict())
    config = TrainConfig(model=tiny_model.config, optim=OptimConfig(frozen_levels=num_levels))
    step = TrainingStep(tiny_model, tiny_model.preprocessing, config, CPU)
    generator = torch.Generator().manual_seed(0)
    for number in range(2):
        images = torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8, generator=generator)
        step([Batch(images, torch.tensor([0, 0, 1, 1]), torch.arange(4), torch.arange(4))], 0, number, 1e-3)
        tiny_model.eval()  # as an evaluation does
        step.train_mode()
    moved = {name for name, value in tiny_model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if name.startswith(tuple(frozen) or ("\0",))]
    trainable = {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad}
    assert trainable <= moved and any(name.startswith("dsa.") for name in moved)
    assert any(name.startswith("mfe.") for name in moved) == (num_levels < 4)


def test_levels_end_where_the_cnn_gives_its_maps_and_what_has_none_is_refused():
    model = hat.create_model("hat_mobilenet_v2", num_classes=2)
    counts = [len(model.mfe.layers_below(level)) for level in (1, 2, 3, 4)]
    assert counts == [4, 7, 14, 19]  # torchvision's features 0-3, 0-6, 0-13 and 0-18

    with pytest.raises(ConfigError, match="has no levels"):
        training_mode(torch.nn.Linear(2, 2), 1)
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(ModelError, match="cannot be taken apart"):
        training_mode(hat.create_model("hat_resnet50", num_classes=2, backbone={"name": "timm/resnet18"}), 1)


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        *((0, 4e-6), (5, (4e-6 + 4e-4) / 2), (9.5, 4e-6 + 0.95 * (4e-4 - 4e-6)), (10, 4e-4), (49.999, 4e-4)),
        *((50, 4e-4 * 0.4), (70, 4e-4 * 0.4**2), (89.5, 4e-4 * 0.4**2), (90, 4e-4 * 0.4**3)),
        *((110, 4e-4 * 0.4**4), (130, 4e-4 * 0.4**5), (149.9, 4e-4 * 0.4**5)),
    ],
)
def test_the_papers_schedule(epoch, lr):
    assert 4e-4 * lr_scale(ScheduleConfig(), epoch, 150) == pytest.approx(lr, rel=1e-12)


def test_cosine_after_a_warm_up_and_constant():
    config = ScheduleConfig(kind="cosine", warmup_epochs=2, warmup_factor=0.1, final_factor=0.05)
    expected = {0: 0.1, 1: 0.55, 2: 1, 7: (1 + 0.05) / 2, 4.5: 0.05 + 0.95 * (1 + math.cos(math.pi / 4)) / 2, 12: 0.05}
    assert {epoch: lr_scale(config, epoch, 12) for epoch in expected} == pytest.approx(expected)
    config = ScheduleConfig(kind="constant", warmup_epochs=0)
    assert [lr_scale(config, epoch, 10) for epoch in (0, 3.3, 10)] == [1, 1, 1]


def test_decay_can_leave_norms_and_biases_out(tiny):
    assert {group["weight_decay"] for group in parameter_groups(tiny, OptimConfig())} == {5e-4}
    groups = parameter_groups(tiny, OptimConfig(decay_norms_and_biases=False))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in tiny.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and not name.endswith(("cls_token", "position_embedding"))
            assert decay[id(parameter)] == (5e-4 if plain else 0), name
    assert len(groups) == 4


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_equals_torchs_plain_optimizer(name):
    config = OptimConfig(name=name, lr=0.01, tfc_lr_scale=1.0, weight_decay=0.1)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}[name]
    torch.manual_seed(0)
    ours, theirs = Plain(), Plain()
    theirs.load_state_dict(ours.state_dict())
    plain = kind(theirs.parameters(), lr=0.01, weight_decay=0.1, foreach=False)
    pair = build_optimizer(ours, config), plain
    for seed in range(3):
        for model, optimizer in zip((ours, theirs), pair, strict=True):
            optimizer.zero_grad()
            sum(
                output.logits.square().sum() for output in model(some_batch(seed).images.float() / 255).branches.values()
            ).backward()
            optimizer.step()
    for found, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_moving_average_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    average = ModelEma(model, EMAConfig(enabled=True, decay=0.9, warmup=False))
    expected = 1.0
    for step in range(3):
        with torch.no_grad():
            model[0].weight.fill_(10.0 * step)
            model[1].running_mean.fill_(1.0)
            model[1].num_batches_tracked.fill_(step)
        average.update()
        expected = 0.9 * expected + 0.1 * 10.0 * step
    assert average.model[0].weight.item() == pytest.approx(expected)
    assert average.model[1].running_mean.item() == pytest.approx(1 - 0.9**3)
    assert average.model[1].num_batches_tracked.item() == 2
    assert not average.model.training and not average.model[0].weight.requires_grad
    warm = ModelEma(nn.Linear(1, 1), EMAConfig(enabled=True, decay=0.99))
    found = [warm.decay(torch.tensor(float(n))).item() for n in (0, 8, 10**6)]
    assert found == [pytest.approx(0.1), pytest.approx(0.5), pytest.approx(0.99)]


@pytest.fixture
def unwritten_memory_is_nan():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_that_the_loss_scaler_skipped_leaves_no_trace(name, unwritten_memory_is_nan):
    torch.manual_seed(0)
    ema = {"enabled": True, "decay": 0.5, "warmup": False}
    step = plain_step(compute={"precision": "fp16"}, optim={"name": name}, ema=ema)
    expected = [value.clone() for value in step.model.parameters()]
    skipped = []
    for number in range(15):
        before = [value.clone() for value in step.model.parameters()]
        step([some_batch(0)], 0, number, 1e-3)
        skipped.append(all(torch.equal(ours, theirs) for ours, theirs in zip(before, step.model.parameters(), strict=True)))
        if not skipped[-1]:
            expected = [0.5 * average + 0.5 * value for average, value in zip(expected, step.model.parameters(), strict=True)]
    # The first scales are too large on purpose.
    assert skipped[0] and not skipped[-1]
    assert step.state()["num_average_updates"] == skipped.count(False)
    for found, value in zip(step.average.model.parameters(), expected, strict=True):
        torch.testing.assert_close(found, value)


def test_images_are_normalized_as_the_trained_model_is_fed():
    preprocessing = Preprocessing(height=32, width=16, mean=(0.2, 0.5, 0.7), std=(0.3, 0.1, 0.2))
    images = some_batch(0).images
    step = TrainingStep(Plain(), preprocessing, configure(), CPU)
    torch.testing.assert_close(step.prepare(images), preprocessing.normalize(images))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_projection_beside_the_model_decays_as_the_model_does(name, tiny):
    for everything in (True, False):
        optim = {"name": name, "weight_decay": 0.03, "decay_norms_and_biases": everything}
        config = configure(distill={"teacher": "a stand-in"}, optim=optim)
        distillation = Distillation(config, FixedTeacher(), tiny, CPU)
        step = TrainingStep(tiny, tiny.preprocessing, config, CPU, distillation)
        decay = {id(p): group["weight_decay"] for group in step.optimizer.param_groups for p in group["params"]}
        assert decay[id(distillation.projection.weight)] == 0.03
        assert decay[id(distillation.projection.bias)] == (0.03 if everything else 0)


def test_accumulated_gradients_are_the_mean_over_batches():
    torch.manual_seed(0)
    model = Plain()
    optim = {"name": "sgd", "lr": 0.1, "momentum": 0, "weight_decay": 0, "tfc_lr_scale": 1, "accumulate": 3}
    step = plain_step(copy.deepcopy(model), optim=optim)
    batches = [some_batch(seed) for seed in range(3)]
    metrics = step(batches, 0, 0, 0.1)

    seen = [step.augmentation(batch.images, 0, batch.positions) for batch in batches]
    pids, config = batches[0].pids, step.config.loss  # the same in every batch
    losses = [hat_loss(model(step.prepare(images)).branches, pids, config) for images in seen]
    mean = sum(loss.total for loss in losses) / 3
    mean.backward()
    assert metrics["loss"].item() == pytest.approx(mean.item(), rel=1e-6)
    assert metrics["tfc1_ce"].item() == pytest.approx(sum(loss.parts["tfc1_ce"].item() for loss in losses) / 3, rel=1e-6)
    for found, before in zip(step.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, before - 0.1 * before.grad, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_step():
    torch.manual_seed(0)
    model = Plain()
    optim = {"name": "sgd", "momentum": 0, "weight_decay": 0, "tfc_lr_scale": 1, "clip_grad_norm": 0.01}
    step = plain_step(copy.deepcopy(model), optim=optim)
    metrics = step([some_batch(0)], 0, 0, 1.0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(step.model.parameters(), model.parameters(), strict=True)])
    assert metrics["grad_norm"].item() > 0.1
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def losses_of(precision, num_steps):
    torch.manual_seed(0)
    step = plain_step(compute={"precision": precision, "channels_last": True}, optim={"lr": 1e-3})
    losses = torch.stack([step([some_batch(0)], 0, 0, 1e-3)["loss"] for _ in range(num_steps)])
    assert losses.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in step.model.parameters())
    assert step.scaler.is_enabled() == (precision == "fp16")
    return losses


def test_bfloat16_stays_near_full_precision_and_float16_gets_over_overflows():
    full, bfloat16, float16 = losses_of("fp32", 5), losses_of("bf16", 5), losses_of("fp16", 15)
    assert full[-1] < full[0] - 0.2
    assert not torch.equal(full, bfloat16)
    torch.testing.assert_close(bfloat16, full, rtol=0.05, atol=0.05)
    assert float16[0].item() == pytest.approx(full[0].item(), rel=0.01)
    # The first scales are too large on purpose, and those steps are left out.
    assert torch.isfinite(float16).all() and float16[-1] < full[4]


def test_dropout_follows_seed_epoch_step_and_rank(tiny):
    def loss(epoch, step, rank=0, seed=0):
        config, context = configure(seed=seed, augmentation=NO_AUGMENTATION), DistributedContext(torch.device("cpu"), rank=rank)
        training = TrainingStep(copy.deepcopy(tiny), tiny.preprocessing, config, context)
        return training([some_batch(0)], epoch, step, 1e-3)["loss"].item()

    first = loss(0, 0)
    assert loss(0, 0) == first
    assert len({first, loss(1, 0), loss(0, 1), loss(0, 0, rank=1), loss(0, 0, seed=1)}) == 5


def test_dropout_drops_as_many_and_keeps_the_expectation():
    torch.manual_seed(0)
    values = torch.full((1001, 1003), 2.0, requires_grad=True)
    dropped = dropout(values, 0.1)
    kept = dropped != 0
    # A million draws: the share of zeros has a standard deviation of 0.0003.
    assert abs(kept.double().mean().item() - 0.9) < 0.0015
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 2 / 0.9), rtol=1e-4, atol=0)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, dropped.detach() / 2)
    rows, columns = (1 - kept.double()).mean(dim=1), (1 - kept.double()).mean(dim=0)
    assert rows.std() < 0.012 and columns.std() < 0.012, "elements that share a number are independent"
    assert dropout(values, 0.1, False) is values and dropout(values, 0.0) is values and not dropout(values, 1.0).any()


@pytest.mark.parametrize("channels", [(8, 24), (24, 8)])
def test_pointwise_convolution_has_torchs_gradients(channels):
    torch.manual_seed(0)
    images = torch.randn(3, channels[0], 6, 5).contiguous(memory_format=torch.channels_last)
    kernels = CpuKernels()
    kernels._pointwise_by_product = True
    found = []
    for context in (nullcontext(), kernels):
        ours = images.clone().requires_grad_()
        layer = nn.Conv2d(*channels, 1, bias=False)
        nn.init.constant_(layer.weight, 0.5)
        layer.weight.data += torch.arange(layer.weight.numel()).reshape(layer.weight.shape) / 100
        with context:
            result = layer(ours)
        (result * torch.arange(5)).square().sum().backward()
        assert ("Pointwise" in type(result.grad_fn).__name__) == (context is kernels)
        found.append((result.detach(), ours.grad, layer.weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_the_gradient_of_a_mean_is_laid_out_as_its_map():
    torch.manual_seed(0)
    images = torch.randn(3, 8, 6, 5).contiguous(memory_format=torch.channels_last)
    layers = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
    layouts, found = [], []
    for context in (nullcontext(), CpuKernels()):
        layers.zero_grad()
        with context:
            normalized = layers[:2](images)
            normalized.grad_fn.register_prehook(lambda gradients: layouts.append(gradients[0].stride()))
            layers[2](normalized).mean(dim=(2, 3)).square().sum().backward()
        found.append([parameter.grad for parameter in layers.parameters()])
    torch.testing.assert_close(found[0], found[1])
    assert layouts[1] == normalized.stride() != layouts[0]


def test_the_last_stage_is_trained_by_its_cls_alone(tiny):
    config = configure(model={"transformer": {"dropout": 0.0}}, augmentation=NO_AUGMENTATION)
    torch.manual_seed(0)
    whole = HAT(config.model, 5)
    step = TrainingStep(copy.deepcopy(whole), whole.preprocessing, config, CPU)
    whole = whole.to(memory_format=torch.channels_last)
    batch = some_batch(0)
    expected = hat_loss(whole(step.prepare(batch.images)).branches, batch.pids, config.loss)
    expected.total.backward()
    step._accumulate(batch, 0, 1, last=True)
    assert step.model.dsa.cls_only and not whole.dsa.cls_only
    for (name, ours), theirs in zip(step.model.named_parameters(), whole.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_slow_bfloat16_operations_run_in_float32():
    torch.manual_seed(0)
    depthwise, full = torch.randn(8, 1, 3, 3), torch.randn(4, 8, 3, 3)
    half, tokens = torch.randn(2, 8, 5, 5).bfloat16(), torch.randn(2, 2, 6, 4).bfloat16()

    def compute(images, tokens):
        depthwise_result = F.conv2d(images, depthwise, None, 1, 1, 1, 8)
        return [depthwise_result, F.scaled_dot_product_attention(tokens, tokens, tokens)]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, plain_full = compute(half, tokens), F.conv2d(half, full)
        with CpuKernels():
            found, found_full = compute(half, tokens), F.conv2d(half, full)
    for value, expected in zip(found, compute(half.float(), tokens.float()), strict=True):
        assert torch.equal(value, expected.bfloat16()) and value.dtype == torch.bfloat16
    assert not torch.equal(plain[0], found[0]), "the weights were not rounded to bfloat16"
    assert torch.equal(plain_full, found_full) and found_full.dtype == torch.bfloat16

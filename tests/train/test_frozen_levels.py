"""Frozen levels: not a bit of them changes in training, everything above them does, and evaluation in between thaws nothing."""

import copy

import pytest
import torch

import hat
from hat.errors import ConfigError, ModelError
from hat.train.config import EMAConfig, OptimConfig, TrainConfig
from hat.train.distributed import DistributedContext
from hat.train.optimizer import freeze_levels
from hat.train.step import Batch, TrainingStep


def take_steps(model, num_levels, count=2):
    """Train for some steps, evaluating in between."""
    config = TrainConfig(model=model.config, optim=OptimConfig(frozen_levels=num_levels), ema=EMAConfig(enabled=False))
    step = TrainingStep(model, model.preprocessing, config, DistributedContext(torch.device("cpu")))
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        images = torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8, generator=generator)
        step([Batch(images, torch.tensor([0, 0, 1, 1]), torch.arange(4), torch.arange(4))], 0, number, 1e-3)
        model.eval()
        step.train_mode()
    return step


def changed(before, model):
    """Names of tensors that are not what they were."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("num_levels", [0, 1, 2, 4])
def test_frozen_levels_stay_and_the_rest_learns(tiny_model, num_levels):
    below = {id(layer) for layer in tiny_model.mfe.layers_below(num_levels)} if num_levels else set()
    frozen = {f"mfe.{name}." for name, layer in tiny_model.mfe.named_children() if id(layer) in below}
    before = copy.deepcopy(tiny_model.state_dict())
    take_steps(tiny_model, num_levels)
    moved = changed(before, tiny_model)
    assert not [name for name in moved if name.startswith(tuple(frozen) or ("\0",))]
    trainable = {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad}
    assert trainable <= moved and any(name.startswith("dsa.") for name in moved)
    assert any(name.startswith("mfe.") for name in moved) == (num_levels < 4)


def test_levels_end_where_the_cnn_gives_its_maps():
    model = hat.create_model("hat_mobilenet_v2", num_classes=2)
    counts = [len(model.mfe.layers_below(level)) for level in (1, 2, 3, 4)]
    assert counts == [4, 7, 14, 19]  # torchvision's features 0-3, 0-6, 0-13 and 0-18


def test_what_has_no_levels_is_refused():
    with pytest.raises(ConfigError, match="has no levels"):
        freeze_levels(torch.nn.Linear(2, 2), 1)
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(ModelError, match="cannot be taken apart"):
        freeze_levels(hat.create_model("hat_resnet50", num_classes=2, backbone={"name": "timm/resnet18"}), 1)

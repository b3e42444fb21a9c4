"""Small models and images for the pictures' tests."""

import numpy as np
import pytest
import torch
from PIL import Image

from hat.model import create_model

SMALL = {"image_size": (64, 32), "num_bottlenecks": 1, "widths": (16, 24, 32, 32), "depths": (1, 1, 2, 0)}
HEADS = {"num_heads": 4, "head_dim": None}


@pytest.fixture
def make_model():
    def make(name="hat_mobilenet_v2", **changes):
        torch.manual_seed(0)
        transformer = HEADS | changes.pop("transformer", {})
        model = create_model(name, 5, **{**SMALL, **changes}, transformer=transformer)
        generator = torch.Generator().manual_seed(1)
        for neck in model.necks.values():
            neck.running_mean.normal_(generator=generator)
            neck.running_var.uniform_(0.5, 2.0, generator=generator)
            torch.nn.init.uniform_(neck.weight, 0.5, 1.5)
        return model

    torch.set_num_threads(1)
    return make


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (80, 40, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.fixture
def assert_left_as_it_was():
    """Call it with a model to remember; the function that it gives checks that the model is as it was."""

    def remember(model):
        model.train()
        model.mfe.eval()  # modes may differ by submodule, as where part of a model is frozen
        model.dsa.cls_only = True
        modes = [module.training for module in model.modules()]

        def check():
            assert [module.training for module in model.modules()] == modes
            assert model.dsa.cls_only is True
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
            assert all(parameter.grad is None for parameter in model.parameters())

        return check

    return remember

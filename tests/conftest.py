"""Shared by all tests: quiet threads, the real data set where it is, and small models."""

import os
from pathlib import Path

import pytest

# Several threads on small tensors cost more than they give, and tests must not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def hat_data():
    """The folder named by HAT_DATA, which holds the real Market-1501; the test is skipped where it is unset."""
    folder = os.environ.get("HAT_DATA")
    if not folder:
        pytest.skip("HAT_DATA is unset: it names a folder with Market-1501-v15.09.15/ or its two zips")
    return Path(folder)


@pytest.fixture
def tiny_model():
    """A HAT with every part of the large one and a hundredth of its size, in evaluation mode; 64 x 32 images."""
    import torch

    import hat

    torch.manual_seed(0)
    model = hat.create_model(
        "hat_resnet50",
        num_classes=5,
        image_size=(64, 32),
        backbone={"name": "mobilenet_v3_small"},
        depths=(1, 1, 2, 0),
        widths=(16, 24, 32, 32),
        num_bottlenecks=1,
        transformer={"num_heads": 4, "ffn_dim": 32},
    )
    # Fresh batch norms are the identity, which would hide mistakes in how they are stored, folded or exported.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()

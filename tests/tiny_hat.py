"""The small model of most tests: every part of the large one and a hundredth of its size; 64 x 32 images."""

import torch

import hat


def tiny_hat(seed=0):
    """A HAT with random weights, in training mode."""
    torch.manual_seed(seed)
    return hat.create_model(
        "hat_resnet50",
        num_classes=5,
        image_size=(64, 32),
        backbone={"name": "mobilenet_v3_small"},
        depths=(1, 1, 2, 0),
        widths=(16, 24, 32, 32),
        num_bottlenecks=1,
        transformer={"num_heads": 4, "ffn_dim": 32},
    )


def batch_norms(model):
    """Its batch norms: fresh ones are the identity, which hides mistakes in how they are stored, folded or exported."""
    return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)]


def calmed(model):
    """An untrained model in evaluation mode whose values do not grow from layer to layer beyond what float16 holds.

    Training sees to that by the statistics of the batch norms, which are still those of nothing.
    """
    for module in batch_norms(model):
        torch.nn.init.constant_(module.weight, 0.5)
    return model.eval()


def lively_hat(seed=0):
    """A tiny HAT in evaluation mode whose batch norms do something; without them an untrained model finds all people alike."""
    model = tiny_hat(seed)
    for module in batch_norms(model):
        torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        module.running_mean.uniform_(-0.2, 0.2)
        module.running_var.uniform_(0.5, 1.5)
    return model.eval()

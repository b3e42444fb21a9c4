"""The inference graph equals the training module, on every preset, and does fewer operations."""

import copy

import pytest
import torch
from torch import nn

import hat
from hat.errors import ModelError, WorkError
from hat.model import model_config
from hat.model.inference import InferenceModel, fold_batch_norms
from hat.model.layers import Attention


def random_model(name, **overrides):
    """A model whose weights are drawn quickly, batch norms away from the identity, so that a mistake in folding shows."""
    with torch.device("meta"):
        model = hat.create_model(name, num_classes=2, **overrides)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel())
            parameter.uniform_(-1, 1, generator=generator).mul_((6 / fan_in) ** 0.5 if parameter.dim() > 1 else 0.1)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.BatchNorm1d):
                module.weight.add_(1)
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_mean.uniform_(-0.1, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.2, generator=generator)
    return model.eval()


def compared(model, batch=2):
    height, width = model.config.image_size
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(images), InferenceModel(model)(images)


@pytest.mark.parametrize("name", hat.list_models())
def test_every_preset_gives_the_same_embeddings_and_has_heads_that_suit_attention_kernels(name):
    if "timm/" in model_config(name).backbone.name:
        pytest.importorskip("timm")
    size = (256, 128) if "mobilenet" in name else (64, 32)
    model = random_model(name, image_size=size, depths=(1, 1, 1, 0), num_bottlenecks=1)  # more of the same shows nothing new
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    assert len(attentions) == sum(model.config.depths)
    assert all(attention.head_dim >= 16 and attention.head_dim % 8 == 0 for attention in attentions)
    expected, got = compared(model)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"mfe_supervision": False},
        {"nea": False, "auxiliary_loss": False},
        {"downscale": 8, "transformer": {"norm_order": "pre", "num_heads": 4, "ffn_dim": 32}},
        {"depths": (0, 0, 0, 2)},
        {"depths": (0, 0, 0, 0)},
        {"projection_dim": 20},
        {"backbone": {"name": "timm/regnety_002", "last_stride": 2}},
        {"backbone": {"name": "timm/mobilenetv3_small_100", "last_stride": 2}},
    ],
    ids=str,
)
def test_every_switch_gives_the_same_embeddings(overrides):
    if "timm" in str(overrides):
        pytest.importorskip("timm", reason="the extra timm is not installed")
    settings = {"widths": (16, 24, 32, 32), "transformer": {"num_heads": 4, "ffn_dim": 32}, "depths": (1, 1, 2, 0)}
    settings |= {"backbone": {"name": "mobilenet_v3_small"}, "image_size": (64, 64)} | overrides
    expected, got = compared(random_model("hat_resnet50", **settings), batch=3)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_the_projection_is_computed_in_float32_under_autocast():
    sizes = {"widths": (16, 24, 32, 32), "depths": (0, 0, 1, 0), "image_size": (64, 32), "projection_dim": 20}
    backbone, transformer = {"name": "mobilenet_v3_small"}, {"num_heads": 4, "ffn_dim": 32}
    model, types = random_model("hat_resnet50", backbone=backbone, transformer=transformer, **sizes), []
    images = torch.zeros(2, 3, 64, 32, dtype=torch.uint8)
    for network in (model, InferenceModel(model)):
        network.projection.register_forward_hook(lambda _m, _i, output: types.append(output.dtype))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            network(images)
    assert types == [torch.float32, torch.float32]


def test_no_norm_of_a_convolution_is_left_and_the_trained_model_is_untouched(tiny_model):
    before = copy.deepcopy(tiny_model.state_dict())
    graph = InferenceModel(tiny_model)
    assert not [name for name, module in graph.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert isinstance(list(graph.dsa.values())[-1].nea, nn.Identity)
    after = tiny_model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not tiny_model.dsa.cls_only


def test_inference_model_takes_float_pixels_and_refuses_another_shape(tiny_model):
    graph = InferenceModel(tiny_model)
    pixels = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    torch.testing.assert_close(graph(pixels.float()), graph(pixels), atol=0, rtol=0)
    shapes = {(3, 64, 32): r"\(B, 3, H, W\), got", (1, 4, 64, 32): "got", (1, 3, 60, 32): "multiples of 16"}
    for shape, sentence in shapes.items():
        with pytest.raises(ModelError, match=sentence):
            graph(torch.zeros(shape, dtype=torch.uint8))


def test_a_convolution_with_two_readers_is_noticed():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(1.0)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    with pytest.raises(WorkError, match="folding batch norms changed the output"):
        fold_batch_norms(Branching().eval(), torch.randn(1, 3, 4, 4))


def test_a_norm_of_no_convolution_or_of_a_shared_one_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.alone, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
            self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.other, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.alone.running_mean.fill_(0.5)
            self.first.running_mean.fill_(1.0)

        def forward(self, x):
            return self.last(self.other(self.second(self.conv(self.first(self.conv(self.alone(x).relu()))))))

    network = Shared().eval()
    fold_batch_norms(network, torch.randn(1, 3, 4, 4))
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in (network.alone, network.first, network.second))
    assert isinstance(network.last, nn.Identity)

"""Checkpoints of the released code, made here by its names and computed by a second implementation of its forward pass."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hat.errors import WeightsError
from hat.io.checkpoint import load_released_weights
from hat.model.backbone import import_torchvision
from hat.model.released import is_released_state, translate_released_state

WIDTHS = {1: (256, 256), 2: (768, 768), 3: (1792, 2048)}
DEPTHS = {1: 3, 2: 3, 3: 6}
NUM_CLASSES = 3


def block_state(prefix, channels):
    inner = channels // 4
    shapes = {"conv1": (inner, channels, 1, 1), "conv2": (inner, inner, 3, 3), "conv3": (channels, inner, 1, 1)}
    state = {}
    for index, (name, shape) in enumerate(shapes.items(), start=1):
        state[f"{prefix}.{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        state |= norm_state(f"{prefix}.bn{index}", shape[0], scale=0.2 if index == 3 else 1.0)
    return state


def norm_state(prefix, width, scale=1.0):
    return {
        f"{prefix}.weight": torch.rand(width) * scale + 0.1,
        f"{prefix}.bias": torch.randn(width) * 0.1,
        f"{prefix}.running_mean": torch.randn(width) * 0.1,
        f"{prefix}.running_var": torch.rand(width) + 0.5,
        f"{prefix}.num_batches_tracked": torch.tensor(7),
    }


def linear_state(prefix, inside, outside, bias=True):
    state = {f"{prefix}.weight": torch.randn(outside, inside) * inside**-0.5}
    return state | ({f"{prefix}.bias": torch.randn(outside) * 0.1} if bias else {})


@pytest.fixture(scope="module")
def released_state():
    """A state dict with the released names, shapes and dead layers."""
    torch.manual_seed(3)
    base = import_torchvision("models").resnet50(weights=None).state_dict()
    state = {f"base.{name}": value for name, value in base.items() if not name.startswith("fc.")}
    for level, (inside, width) in WIDTHS.items():
        for index in range(3):
            state |= block_state(f"non_linear{level}.{index}", (256, 512, 1024)[level - 1])
        stage = f"HAT.TFC_S{level}"
        state |= linear_state(f"{stage}.patch_to_embedding", inside, width)
        state[f"{stage}.cls_token"] = torch.randn(1, 1, width)
        state[f"{stage}.pos_embedding"] = torch.randn(1, 129, width)
        for layer in range(DEPTHS[level]):
            attention, ffn = f"{stage}.transformer.layers.{layer}.0.fn", f"{stage}.transformer.layers.{layer}.1.fn"
            for norm in (attention, ffn):
                state[f"{norm}.norm.weight"], state[f"{norm}.norm.bias"] = torch.rand(width) + 0.5, torch.randn(width) * 0.1
            state |= linear_state(f"{attention}.fn.to_qkv", width, 3072, bias=False)
            state |= linear_state(f"{attention}.fn.to_out.0", 1024, width)
            state |= linear_state(f"{ffn}.fn.net.0", width, 2048) | linear_state(f"{ffn}.fn.net.3", 2048, width)
        state |= linear_state(f"{stage}.transformer.Non{level}", width, 64)
        state |= block_state(f"{stage}.NeA", width)
    for branch, width in {"b": 2048, "t1": 256, "t2": 768, "t3": 2048}.items():
        state |= norm_state(f"bottleneck_{branch}", width)
        state |= linear_state(f"classifier_{branch}", width, NUM_CLASSES, bias=False)
    return state


def norm2d(state, prefix, x):
    names = ("running_mean", "running_var", "weight", "bias")
    mean, var, weight, bias = (state[f"{prefix}.{name}"].view(1, -1, *[1] * (x.dim() - 2)) for name in names)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def residual(state, prefix, x):
    y = F.relu(norm2d(state, f"{prefix}.bn1", F.conv2d(x, state[f"{prefix}.conv1.weight"])))
    y = F.relu(norm2d(state, f"{prefix}.bn2", F.conv2d(y, state[f"{prefix}.conv2.weight"], padding=1)))
    return F.relu(norm2d(state, f"{prefix}.bn3", F.conv2d(y, state[f"{prefix}.conv3.weight"])) + x)


def linear(state, prefix, x):
    return F.linear(x, state[f"{prefix}.weight"], state.get(f"{prefix}.bias"))


def released_forward(state, images):
    """The released network from its own names: no ReLU in the stem, pre-norm, 16 heads of 64 scaled by the model width."""
    base = import_torchvision("models").resnet50(weights=None).eval()
    base.load_state_dict({name[5:]: value for name, value in state.items() if name.startswith("base.")}, strict=False)
    base.layer4[0].conv2.stride = base.layer4[0].downsample[0].stride = (1, 1)
    x = base.maxpool(base.bn1(base.conv1(images)))
    levels = [x := layer(x) for layer in (base.layer1, base.layer2, base.layer3, base.layer4)]
    carried = None
    for level, depth in DEPTHS.items():
        current = levels[level - 1]
        for index in range(3):
            current = residual(state, f"non_linear{level}.{index}", current)
        factor = current.shape[-1] // 8
        current = F.max_pool2d(current, factor) if factor > 1 else current
        current = current if carried is None else torch.cat([current, carried], dim=1)
        stage, width = f"HAT.TFC_S{level}", WIDTHS[level][1]
        tokens = linear(state, f"{stage}.patch_to_embedding", current.flatten(2).transpose(1, 2))
        tokens = torch.cat([state[f"{stage}.cls_token"].repeat(len(tokens), 1, 1), tokens], dim=1)
        tokens = tokens + state[f"{stage}.pos_embedding"]
        for layer in range(depth):
            a, f = f"{stage}.transformer.layers.{layer}.0.fn", f"{stage}.transformer.layers.{layer}.1.fn"
            y = F.layer_norm(tokens, (width,), state[f"{a}.norm.weight"], state[f"{a}.norm.bias"])
            q, k, v = (t.view(*t.shape[:2], 16, 64).transpose(1, 2) for t in linear(state, f"{a}.fn.to_qkv", y).chunk(3, -1))
            y = ((q @ k.transpose(-1, -2)) * width**-0.5).softmax(-1) @ v
            tokens = tokens + linear(state, f"{a}.fn.to_out.0", y.transpose(1, 2).flatten(2))
            y = F.layer_norm(tokens, (width,), state[f"{f}.norm.weight"], state[f"{f}.norm.bias"])
            tokens = tokens + linear(state, f"{f}.fn.net.3", F.gelu(linear(state, f"{f}.fn.net.0", y)))
        cls = tokens[:, 0]
        carried = residual(state, f"{stage}.NeA", tokens[:, 1:].transpose(1, 2).reshape(len(tokens), width, 16, 8))
    necked = [norm2d(state, "bottleneck_b", levels[-1].mean((2, 3))), norm2d(state, "bottleneck_t3", cls)]
    return F.normalize(torch.cat(necked, dim=1), dim=1)


@torch.no_grad()
def test_a_released_checkpoint_loads_and_computes_what_the_released_code_computes(released_state, tmp_path):
    torch.save(released_state, tmp_path / "released.pth")
    model, message = load_released_weights(tmp_path / "released.pth", last_stride=1)
    num_dead = sum(value.numel() for name, value in released_state.items() if ".Non" in name)
    assert f"dropped 6 tensors with {num_dead / 1e6:.1f} M values" in message
    assert model.num_classes == NUM_CLASSES
    images = torch.randn(1, 3, 256, 128)
    torch.testing.assert_close(model(images), released_forward(released_state, images), atol=2e-5, rtol=1e-4)


def test_every_released_name_has_one_of_ours(released_state):
    translation = translate_released_state(released_state)
    assert translation.unknown == ()
    assert len(translation.state) + len(translation.dropped) == len(released_state)
    assert all(".Non" in name for name in translation.dropped)
    assert is_released_state(released_state) and not is_released_state(translation.state)


def test_what_does_not_fit_is_refused(released_state, tmp_path):
    path = tmp_path / "released.pth"
    cases = {
        "missing: dsa.tfc2.cls_token": {name: v for name, v in released_state.items() if name != "HAT.TFC_S2.cls_token"},
        "1 unknown tensors, such as HAT.TFC_S1.extra": released_state | {"HAT.TFC_S1.extra": torch.zeros(1)},
        "of another shape: dsa.tfc1.position_embedding": released_state | {"HAT.TFC_S1.pos_embedding": torch.zeros(1, 65, 256)},
        "no classifier_b.weight": {name: v for name, v in released_state.items() if name != "classifier_b.weight"},
        "not the names of HAT's released code": {"conv1.weight": nn.Conv2d(3, 64, 7).weight.detach()},
    }
    for reason, state in cases.items():
        torch.save(state, path)
        with pytest.raises(WeightsError, match=reason):
            load_released_weights(path, last_stride=1)

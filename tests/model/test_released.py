"""Checkpoints of the released code: a second table of its names, and a second implementation of its forward pass."""

import json

import pytest
import torch
import torch.nn.functional as F
from test_foreign_files import module_of, save_and_forget
from tiny_hat import batch_norms
from torch import nn

import hat
from hat.commands.convert import convert
from hat.config import config_from_dict, config_to_dict
from hat.errors import UsageError, WeightsError
from hat.io.checkpoint import load_released_weights
from hat.io.weights import load_backbone_weights
from hat.model import HAT, model_config
from hat.model.backbone import import_torchvision
from hat.model.released import is_released_state, released_config, translate_released_state
from hat.train.config import TrainConfig
from hat.train.initial_model import initial_model

RELEASED_NAMES = {
    **{"mfe.": "base.", "bottlenecks.tfc": "non_linear", "necks.base.": "bottleneck_b.", "necks.tfc": "bottleneck_t"},
    **{"classifiers.base.": "classifier_b.", "classifiers.tfc": "classifier_t", "dsa.tfc": "HAT.TFC_S"},
    **{"patch_embed": "patch_to_embedding", "position_embedding": "pos_embedding", ".nea.": ".NeA."},
    **{"blocks": "transformer.layers", "norm1": "0.fn.norm", "norm2": "1.fn.norm", "ffn.up": "1.fn.fn.net.0"},
    **{"attention.to_qkv": "0.fn.fn.to_qkv", "attention.to_out": "0.fn.fn.to_out.0", "ffn.down": "1.fn.fn.net.3"},
}
DEAD = "HAT.TFC_S1.transformer.Non1.weight"


def released_name_of(name):
    """The released code's name of one of ours, written down a second time and the other way round."""
    for ours, theirs in RELEASED_NAMES.items():
        name = name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def released():
    """A small model of the released form, and its state dict as the released code would have written it."""
    torch.manual_seed(0)
    settings = {"image_size": (64, 32), "depths": (1, 2, 1, 0), "backbone": {"name": "resnet18"}}
    model = hat.create_model("hat_resnet50_released", 3, **settings, transformer={"num_heads": 2, "ffn_dim": 48}).eval()
    for norm in batch_norms(model):
        for tensor, low, high in ((norm.weight, 0.1, 1.1), (norm.running_mean, -0.2, 0.2), (norm.running_var, 0.5, 1.5)):
            nn.init.uniform_(tensor, low, high)
    state = {released_name_of(name): value for name, value in model.state_dict().items()}
    return model, state | {DEAD: torch.zeros(1000, 100)}


def assert_holds(loaded, own):
    own = own.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items() if "num_" not in name)


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
    """The released network from its own names: no ReLU in the stem, pre-norm, heads of 64 scaled by the model width."""
    base = import_torchvision("models").resnet18(weights=None).eval()
    base.load_state_dict({name[5:]: value for name, value in state.items() if name.startswith("base.")}, strict=False)
    base.layer4[0].conv1.stride = base.layer4[0].downsample[0].stride = (1, 1)
    x = base.maxpool(base.bn1(base.conv1(images)))
    levels = [x := layer(x) for layer in (base.layer1, base.layer2, base.layer3, base.layer4)]
    carried = None
    for level, depth in enumerate((1, 2, 1), start=1):
        current = levels[level - 1]
        for index in range(3):
            current = residual(state, f"non_linear{level}.{index}", current)
        factor = current.shape[-1] // 2
        current = F.max_pool2d(current, factor) if factor > 1 else current
        current = current if carried is None else torch.cat([current, carried], dim=1)
        stage = f"HAT.TFC_S{level}"
        tokens = linear(state, f"{stage}.patch_to_embedding", current.flatten(2).transpose(1, 2))
        tokens = torch.cat([state[f"{stage}.cls_token"].repeat(len(tokens), 1, 1), tokens], dim=1)
        tokens = tokens + state[f"{stage}.pos_embedding"]
        width = tokens.shape[-1]
        for layer in range(depth):
            a, f = f"{stage}.transformer.layers.{layer}.0.fn", f"{stage}.transformer.layers.{layer}.1.fn"
            y = F.layer_norm(tokens, (width,), state[f"{a}.norm.weight"], state[f"{a}.norm.bias"])
            q, k, v = (t.view(*t.shape[:2], 2, 64).transpose(1, 2) for t in linear(state, f"{a}.fn.to_qkv", y).chunk(3, -1))
            y = ((q @ k.transpose(-1, -2)) * width**-0.5).softmax(-1) @ v
            tokens = tokens + linear(state, f"{a}.fn.to_out.0", y.transpose(1, 2).flatten(2))
            y = F.layer_norm(tokens, (width,), state[f"{f}.norm.weight"], state[f"{f}.norm.bias"])
            tokens = tokens + linear(state, f"{f}.fn.net.3", F.gelu(linear(state, f"{f}.fn.net.0", y)))
        cls = tokens[:, 0]
        carried = residual(state, f"{stage}.NeA", tokens[:, 1:].transpose(1, 2).reshape(len(tokens), width, 4, 2))
    necked = [norm2d(state, "bottleneck_b", levels[-1].mean((2, 3))), norm2d(state, "bottleneck_t3", cls)]
    return F.normalize(torch.cat(necked, dim=1), dim=1)


@torch.no_grad()
def test_a_released_checkpoint_loads_and_computes_what_the_released_code_computes(released, tmp_path):
    model, state = released
    torch.save({"state_dict": state, "epoch": 120}, tmp_path / "released.pth")
    with pytest.raises(WeightsError, match=r"does not tell the stride .*hat convert"):
        load_released_weights(tmp_path / "released.pth")
    loaded, message = load_released_weights(tmp_path / "released.pth", last_stride=1)
    assert "dropped 1 tensors with 0.1 M values" in message and loaded.num_classes == 3
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(loaded(images), released_forward(state, images), atol=2e-5, rtol=1e-4)
    other, _ = load_released_weights(tmp_path / "released.pth", last_stride=2)
    assert other.config.backbone.last_stride == 2 and other.mfe(images)[-1].shape[-2:] == (2, 1)
    torch.testing.assert_close(other.dsa.state_dict(), model.dsa.state_dict())
    translation = translate_released_state(state | {"base.fc.weight": torch.zeros(1)})
    assert translation.unknown == () and list(translation.dropped) == [DEAD, "base.fc.weight"]
    assert is_released_state(state) and not is_released_state(translation.state)


def test_what_does_not_fit_is_refused(released, tmp_path):
    _, state = released
    path = tmp_path / "released.pth"
    cases = {
        "missing: dsa.tfc2.cls_token": {name: v for name, v in state.items() if name != "HAT.TFC_S2.cls_token"},
        "missing: dsa.tfc1.position_embedding": {name: v for name, v in state.items() if name == DEAD or "HAT." not in name},
        "1 unknown tensors, such as HAT.TFC_S1.extra": state | {"HAT.TFC_S1.extra": torch.zeros(1)},
        "of another shape: dsa.tfc1.position_embedding": state | {"HAT.TFC_S1.pos_embedding": torch.zeros(1, 65, 64)},
        "no classifier_b.weight": {name: v for name, v in state.items() if name != "classifier_b.weight"},
        "not the names of HAT's released code": {"conv1.weight": nn.Conv2d(3, 64, 7).weight.detach()},
    }
    for reason, content in cases.items():
        torch.save(content, path)
        with pytest.raises(WeightsError, match=reason):
            load_released_weights(path, last_stride=1)


@pytest.mark.parametrize("legacy", [False, True])
def test_load_released_weights_of_a_whole_pickled_model(released, legacy, tmp_path):
    model, state = released
    whole = module_of({f"module.{name}": value for name, value in state.items()}, tmp_path)
    block = whole.module.base.layer4._modules["0"]
    block.conv1.stride = block.conv2.stride = (1, 1)
    save_and_forget(whole, tmp_path / "whole.pth", legacy)
    loaded, note = load_released_weights(tmp_path / "whole.pth")
    assert loaded.config == model.config and "dropped 1 tensors" in note
    assert_holds(loaded, model)
    with pytest.raises(WeightsError, match="was made with a last stride of 1, not 2"):
        load_released_weights(tmp_path / "whole.pth", last_stride=2)
    other = hat.create_model("hat_resnet18", 3, depths=(1, 0, 0, 0))
    assert "left out" in load_backbone_weights(other, str(tmp_path / "whole.pth"))
    assert_holds(other.mfe, model.mfe)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"backbone": {"name": "resnet101", "last_stride": 2, "stem_relu": False}, "depths": (2, 1, 3, 0)},
        {"backbone": {"name": "resnext50_32x4d", "stem_relu": False}, "image_size": (384, 192), "widths": (64, 64, 64, 1)},
        {"image_size": (384, 128)},
    ],
    ids=str,
)
def test_released_config_is_read_from_the_tensors(overrides):
    config = model_config("hat_resnet50_released", **overrides)
    with torch.device("meta"):
        model = HAT(config, 3)
    state = {released_name_of(name): value for name, value in model.state_dict().items()}
    size = config.image_size if config.image_size[0] != 2 * config.image_size[1] else None
    translated = translate_released_state(state).state
    stride = config.backbone.last_stride
    assert released_config(translated, last_stride=stride, image_size=size, source="it") == config
    with pytest.raises(WeightsError, match="say the size that it was trained at"):
        released_config(translated, last_stride=stride, image_size=(64, 256), source="it")


def test_initial_model_begins_with_a_file_of_the_released_code(released, tmp_path):
    model, state = released
    torch.save(state, tmp_path / "released.pth")
    changes = {"model": config_to_dict(model.config), "initial_checkpoint": str(tmp_path / "released.pth")}
    started, note = initial_model(config_from_dict(TrainConfig, changes, where="test"), 7)
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in started.state_dict().items() if "classifiers" not in name)
    assert "new classifiers" in note


def test_convert_makes_a_checkpoint_folder(released, tmp_path, capsys):
    model, state = released
    source = tmp_path / "released.pth"
    torch.save(state, source)
    with pytest.raises(WeightsError, match="does not tell the stride"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", last_stride=1, as_json=True)
    assert json.loads(capsys.readouterr().out)["depths"] == [1, 2, 1, 0]
    loaded, images = hat.load_checkpoint(tmp_path / "out"), torch.randn(2, 3, 64, 32)
    assert loaded.config == model.config and torch.equal(loaded(images), model(images))
    with pytest.raises(UsageError, match="holds a checkpoint already"):
        convert(source, tmp_path / "out", last_stride=1)
    with pytest.raises(WeightsError, match="say the size that it was trained at"):
        convert(source, tmp_path / "other", last_stride=1, image_size="128x64")
    with pytest.raises(UsageError, match="is height x width in pixels"):
        convert(source, tmp_path / "other", last_stride=1, image_size="wide")

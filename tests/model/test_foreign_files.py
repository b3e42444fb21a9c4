"""Files of other projects: whole pickled modules of classes that are gone, wrapped and prefixed states, hostile pickles."""

import importlib.util
import io
import json
import pickle
import sys

import pytest
import torch
from torch import nn

import hat
from hat.commands.convert import convert
from hat.config import config_from_dict, config_to_dict
from hat.errors import UsageError, WeightsError
from hat.io.checkpoint import load_released_weights
from hat.io.weights import load_backbone_weights, read_state_file
from hat.model import HAT, model_config
from hat.model.backbone import import_torchvision
from hat.model.released import released_config, translate_released_state
from hat.train.config import TrainConfig
from hat.train.initial_model import initial_model

STAGE = {"patch_embed": "patch_to_embedding", "cls_token": "cls_token", "position_embedding": "pos_embedding"}
BLOCK = {
    "norm1": "0.fn.norm",
    "attention.to_qkv": "0.fn.fn.to_qkv",
    "attention.to_out": "0.fn.fn.to_out.0",
    "norm2": "1.fn.norm",
    "ffn.up": "1.fn.fn.net.0",
    "ffn.down": "1.fn.fn.net.3",
}
BRANCH = {"mfe": "b", "tfc1": "t1", "tfc2": "t2", "tfc3": "t3"}


def released_name_of(name):
    """The released code's name of one of ours, written down a second time and the other way round."""
    part, _, rest = name.partition(".")
    if part == "mfe":
        return f"base.{rest}"
    branch, _, rest = rest.partition(".")
    if part in ("necks", "classifiers"):
        return f"{'bottleneck' if part == 'necks' else 'classifier'}_{BRANCH[branch]}.{rest}"
    if part == "bottlenecks":
        return f"non_linear{branch[-1]}.{rest}"
    stage = f"HAT.TFC_S{branch[-1]}"
    first, _, inside = rest.partition(".")
    if first in STAGE:
        return f"{stage}.{STAGE[first]}{'.' + inside if inside else ''}"
    if first == "nea":
        return f"{stage}.NeA.{inside}"
    index, _, inside = inside.partition(".")
    layer, _, kind = inside.rpartition(".")
    return f"{stage}.transformer.layers.{index}.{BLOCK[layer]}.{kind}"


def small_released(**overrides):
    torch.manual_seed(0)
    settings = {"image_size": (64, 32), "depths": (1, 2, 1, 0), "backbone": {"name": "resnet18"}} | overrides
    settings["transformer"] = {"num_heads": 2, "ffn_dim": 48}
    return hat.create_model("hat_resnet50_released", 3, **settings).eval()


def module_of(state, folder):
    """A tree of modules with the parameters of a state dict, of a class whose source is taken away after pickling."""
    path = folder / "hat_code_that_is_gone.py"
    path.write_text("from torch import nn\n\n\nclass Part(nn.Module):\n    pass\n")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    source = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    root = source.Part()
    for name, value in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, source.Part())
            module = module._modules[part]
        if value.is_floating_point() and "running" not in last:
            module.register_parameter(last, nn.Parameter(value.clone()))
        else:
            module.register_buffer(last, value.clone())
    return root


def save_and_forget(content, path, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    (path.parent / "hat_code_that_is_gone.py").unlink()
    del sys.modules["hat_code_that_is_gone"]


@pytest.fixture(scope="module")
def released():
    model = small_released()
    state = {released_name_of(name): value for name, value in model.state_dict().items()}
    state["HAT.TFC_S1.transformer.Non1.weight"] = torch.zeros(4, 4)
    return model, state


@pytest.mark.parametrize("legacy", [False, True])
def test_load_released_weights_of_a_whole_pickled_model(released, legacy, tmp_path):
    model, state = released
    whole = module_of({f"module.{name}": value for name, value in state.items()}, tmp_path)
    whole.module.base.layer4._modules["0"].conv1.stride = (1, 1)
    whole.module.base.layer4._modules["0"].conv2.stride = (1, 1)
    save_and_forget(whole, tmp_path / "whole.pth", legacy)
    loaded, note = load_released_weights(tmp_path / "whole.pth")
    assert loaded.config == model.config and "dropped 1 tensors" in note
    own = model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(WeightsError, match="was made with a last stride of 1, not 2"):
        load_released_weights(tmp_path / "whole.pth", last_stride=2)


def test_load_released_weights_asks_for_the_stride_of_a_state_dict(released, tmp_path):
    model, state = released
    torch.save({"state_dict": state, "epoch": 120}, tmp_path / "state.pth")
    with pytest.raises(WeightsError, match=r"does not tell the stride .*hat convert"):
        load_released_weights(tmp_path / "state.pth")
    for stride in (1, 2):
        loaded, _ = load_released_weights(tmp_path / "state.pth", last_stride=stride)
        assert loaded.config.backbone.last_stride == stride
        assert loaded.mfe(torch.randn(1, 3, 64, 32))[-1].shape[-2:] == ((4, 2) if stride == 1 else (2, 1))
    torch.testing.assert_close(loaded.dsa.state_dict(), model.dsa.state_dict())


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


class Hostile:
    """Calls what it names when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def reached():
    raise AssertionError("a pickle called a function of ours")


@pytest.mark.parametrize("legacy", [False, True])
def test_read_state_file_runs_nothing_of_a_hostile_pickle(legacy, tmp_path):
    victim = tmp_path / "victim"
    attacks = [
        Hostile(open, str(victim), "w"),
        Hostile(exec, f"open({str(victim)!r}, 'w')"),
        Hostile(getattr, "text", "upper"),
        Hostile(reached),
        Hostile(torch.load, str(victim)),
    ]
    module = module_of({"conv.weight": torch.ones(2, 2)}, tmp_path)
    module.conv.extra, module.attacks = attacks[0], attacks
    save_and_forget({"state_dict": module, "attacks": attacks}, tmp_path / "hostile.pth", legacy)
    state = read_state_file(tmp_path / "hostile.pth")
    assert list(state) == ["conv.weight"] and torch.equal(state["conv.weight"], torch.ones(2, 2))
    assert not victim.exists()


def test_read_state_file_does_not_follow_a_module_that_holds_itself(tmp_path):
    module = module_of({"conv.weight": torch.ones(2, 2)}, tmp_path)
    module._modules["again"] = module
    save_and_forget(module, tmp_path / "loop.pth")
    assert list(read_state_file(tmp_path / "loop.pth")) == ["conv.weight"]


def test_read_state_file_refuses_a_bare_pickle(tmp_path):
    stream = io.BytesIO()
    pickle.dump({"weight": Hostile(reached)}, stream)
    (tmp_path / "bare.pth").write_bytes(stream.getvalue())
    with pytest.raises(WeightsError, match="damaged or no file of weights"):
        read_state_file(tmp_path / "bare.pth")


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(5)
    return import_torchvision("models").resnet18(weights=None).state_dict()


@pytest.mark.parametrize("prefix", ["backbone.", "base.", "module.encoder_q.", "model.backbone.", ""])
@pytest.mark.parametrize("wrapper", ["net_dict", "state_dict", "model"])
def test_load_backbone_weights_strips_one_prefix_and_names_what_is_left_out(prefix, wrapper, resnet18, tmp_path):
    state = {f"{prefix}{name}": value for name, value in resnet18.items()}
    plain = prefix.removeprefix("module.")
    heads = {f"{plain}bnneck.weight": torch.ones(512), "classifier.weight": torch.ones(9, 512)}
    torch.save({wrapper: state | heads, "epoch": 3}, tmp_path / "weights.pth")
    model = hat.create_model("hat_resnet18", 3, depths=(1, 0, 0, 0))
    note = load_backbone_weights(model, str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, resnet18[name]) for name, value in model.mfe.state_dict().items() if "num_" not in name)
    assert "left out" in note and "classifier.weight" in note and "bnneck.weight" in note


def test_load_backbone_weights_takes_the_backbone_of_a_pickled_model_of_the_released_code(released, tmp_path):
    own, state = released
    save_and_forget(module_of(state, tmp_path), tmp_path / "whole.pth")
    model = hat.create_model("hat_resnet18", 3, depths=(1, 0, 0, 0))
    note = load_backbone_weights(model, str(tmp_path / "whole.pth"))
    assert all(
        torch.equal(value, own.mfe.state_dict()[name]) for name, value in model.mfe.state_dict().items() if "num_" not in name
    )
    assert "left out" in note


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
    torch.save(state, tmp_path / "released.pth")
    with pytest.raises(WeightsError, match="does not tell the stride"):
        convert(tmp_path / "released.pth", tmp_path / "out")
    convert(tmp_path / "released.pth", tmp_path / "out", last_stride=1, as_json=True)
    assert json.loads(capsys.readouterr().out)["depths"] == [1, 2, 1, 0]
    loaded = hat.load_checkpoint(tmp_path / "out")
    images = torch.randn(2, 3, 64, 32)
    assert loaded.config == model.config and torch.equal(loaded(images), model(images))
    with pytest.raises(UsageError, match="holds a checkpoint already"):
        convert(tmp_path / "released.pth", tmp_path / "out", last_stride=1)
    with pytest.raises(WeightsError, match="say the size that it was trained at"):
        convert(tmp_path / "released.pth", tmp_path / "other", last_stride=1, image_size="128x64")
    with pytest.raises(UsageError, match="expected height x width"):
        convert(tmp_path / "released.pth", tmp_path / "other", last_stride=1, image_size="wide")

"""Files of other projects: whole pickled modules of classes that are gone, wrapped and prefixed states, hostile pickles."""

import importlib.util
import sys

import pytest
import torch
from torch import nn

import hat
from hat.io.weights import load_backbone_weights, read_state_file
from hat.model.backbone import import_torchvision


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
    module._modules["again"] = module  # it holds itself
    save_and_forget({"state_dict": module, "attacks": attacks}, tmp_path / "hostile.pth", legacy)
    state = read_state_file(tmp_path / "hostile.pth")
    assert list(state) == ["conv.weight"] and torch.equal(state["conv.weight"], torch.ones(2, 2))
    assert not victim.exists()


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(5)
    return import_torchvision("models").resnet18(weights=None).state_dict()


@pytest.fixture(scope="module")
def model():
    return hat.create_model("hat_resnet18", 3, depths=(1, 0, 0, 0))


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        ("backbone.", "net_dict"),
        ("base.", "state_dict"),
        ("module.encoder_q.", "model"),
        ("model.backbone.", "network"),
        ("", "net"),
    ],
)
def test_load_backbone_weights_strips_one_prefix_and_names_what_is_left_out(prefix, wrapper, resnet18, model, tmp_path):
    for parameter in model.mfe.parameters():
        nn.init.zeros_(parameter)
    state = {f"{prefix}{name}": value for name, value in resnet18.items()}
    plain = prefix.removeprefix("module.")
    heads = {f"{plain}bnneck.weight": torch.ones(512), "classifier.weight": torch.ones(9, 512)}
    torch.save({wrapper: state | heads, "epoch": 3}, tmp_path / "weights.pth")
    note = load_backbone_weights(model, str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, resnet18[name]) for name, value in model.mfe.state_dict().items() if "num_" not in name)
    assert "left out" in note and "classifier.weight" in note and "bnneck.weight" in note

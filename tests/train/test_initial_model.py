import re

import pytest
import torch
import torch.nn.functional as F
from tiny_run import configure

from hat.config import apply_overrides, parse_overrides
from hat.errors import ConfigError, WeightsError
from hat.io.checkpoint import load_checkpoint, save_checkpoint
from hat.train.initial_model import initial_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = configure(seed=7)
    model, _ = initial_model(config, 6)
    for value in model.buffers():  # running statistics are part of what was learned
        if value.is_floating_point():
            value.add_(0.25)
    return save_checkpoint(model, tmp_path_factory.mktemp("trained"))


def begin(trained, num_classes, **changes):
    return initial_model(configure(backbone_weights=None, initial_checkpoint=str(trained), **changes), num_classes)


@pytest.mark.parametrize(("num_classes", "said"), [(6, "its own classifiers"), (9, "new classifiers")])
def test_other_people_get_new_classifiers_and_nothing_else_is_new(trained, num_classes, said):
    model, note = begin(trained, num_classes)
    before, now = load_checkpoint(trained).state_dict(), model.state_dict()
    replaced = {name for name, value in now.items() if not torch.equal(value, before[name])}
    assert replaced == {name for name in now if name.startswith("classifiers.") and num_classes != 6}
    assert said in note and str(trained) in note
    assert model.num_classes == num_classes


def test_another_image_size_resamples_the_positions(trained):
    source = load_checkpoint(trained)
    height, width = source.config.image_size
    model, note = begin(trained, 6, model={"image_size": [2 * height, 2 * width]})
    for level, stage in model.dsa.items():
        old = source.dsa[level]
        assert torch.equal(stage.position_embedding[:, 0], old.position_embedding[:, 0])  # CLS has no place
        places = old.position_embedding[:, 1:].transpose(1, 2).unflatten(2, old.grid)
        enlarged = F.interpolate(places, size=stage.grid, mode="bicubic").flatten(2).transpose(1, 2)
        torch.testing.assert_close(stage.position_embedding[:, 1:], enlarged)
    # A network that resamples on the fly and one that was made from it see a larger image alike.
    images = torch.randn(2, 3, 2 * height, 2 * width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), source.eval()(images), rtol=1e-4, atol=1e-5)
    assert f"from {height}x{width} to {2 * height}x{2 * width}" in note


def test_a_projection_that_only_one_of_both_has_begins_anew_or_is_left_out(trained, tmp_path):
    taught = {"distill": {"teacher": "t"}, "model": {"projection_dim": 4}}
    model, note = begin(trained, 6, **taught)
    before = load_checkpoint(trained).state_dict()
    assert {name for name in model.state_dict() if name not in before} == {"projection.weight", "projection.bias"}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert "projection_dim 4 instead of None" in note
    plain, note = begin(save_checkpoint(model, tmp_path / "projected"), 6)
    assert plain.projection is None and all(torch.equal(plain.state_dict()[name], value) for name, value in before.items())
    assert "projection_dim None instead of 4" in note


def test_another_architecture_and_two_sources_are_refused(trained):
    refused = "Only image size, number of identities, a projection or none, and what changes no"
    with pytest.raises(WeightsError, match=refused):
        begin(trained, 6, model={"num_bottlenecks": 2})
    other = {"num_bottlenecks": 2, "depths": [1, 1, 0, 1], "image_size": [96, 48]}
    with pytest.raises(WeightsError, match=refused) as told:
        begin(trained, 6, model=other)
    options = parse_overrides(re.findall(r"--set (\S+)", str(told.value)))
    assert set(options["model"]) == {"num_bottlenecks", "depths"}
    with_them = apply_overrides(configure(backbone_weights=None, initial_checkpoint=str(trained), model=other), options)
    assert "resampled" in initial_model(with_them, 6)[1]  # what the message says helps
    with pytest.raises(ConfigError, match="leave out backbone_weights"):
        initial_model(configure(backbone_weights="torchvision", initial_checkpoint=str(trained)), 6)


def test_initial_model_takes_tensors_of_the_same_shapes_in_other_heads_and_names_them(trained):
    model, note = begin(trained, 6, model={"transformer": {"num_heads": None, "head_dim": 4}})
    before = load_checkpoint(trained).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "transformer.num_heads None instead of 2, transformer.head_dim 4 instead of None" in note

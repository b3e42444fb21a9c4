"""Class activation maps against closed forms and gradients taken another way; maps of stages against the recursion by hand."""

import itertools
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from hat.errors import UsageError
from hat.model import create_model
from hat.model.dsa import scale_map
from hat.visual import activation_maps, branch_activations, cls_attention, tfc_maps, token_maps

SMALL = {"image_size": (64, 32), "num_bottlenecks": 1, "widths": (16, 24, 32, 32), "depths": (1, 1, 2, 0)}


def make_model(name="hat_mobilenet_v2", **changes):
    torch.manual_seed(0)
    transformer = {"num_heads": 4, "head_dim": None} | changes.pop("transformer", {})
    model = create_model(name, 5, **{**SMALL, **changes}, transformer=transformer)
    generator = torch.Generator().manual_seed(1)
    for neck in model.necks.values():
        neck.running_mean.normal_(generator=generator)
        neck.running_var.uniform_(0.5, 2.0, generator=generator)
        torch.nn.init.uniform_(neck.weight, 0.5, 1.5)
    return model


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (80, 40, 3), dtype=np.uint8)) for _ in range(3)]


def unit(maps):
    """Each map scaled to its own range, by loops."""
    ranges = [(one, one.min(), one.max()) for one in maps.detach().numpy()]
    return np.stack([(one - low) / (high - low) if high > low else 0 * one for one, low, high in ranges])


@torch.no_grad()
def entering_maps(model, batch):
    """Stage name -> what enters it, by the recursion of Eq. 6."""
    levels, carried, found = model.mfe(model.preprocessing.normalize(batch)), None, {}
    for level in model.config.levels:
        name = f"tfc{level}"
        entering = scale_map(model.bottlenecks[name](levels[level - 1]), model.config.token_grid)
        found[name] = entering if carried is None else torch.cat([entering, carried], dim=1)
        _, carried = model.dsa[name](found[name])
    return found


@pytest.fixture
def batch(images):
    return torch.stack([make_model().preprocessing(image) for image in images])


def test_the_mfe_maps_have_closed_forms(images, batch):
    model = make_model().eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.classifiers["mfe"].weight)
        last = model.mfe(model.preprocessing.normalize(batch))[-1]
        neck = model.necks["mfe"]
        gain = neck.weight / (neck.running_var + neck.eps).sqrt()
        # y = |n|^2 / 2, n = gain * (mean of A - running mean): the gradient is n_c gain_c / hw at every position of channel c.
        necked = gain * (last.mean(dim=(2, 3)) - neck.running_mean)
        winner = model.classifiers["mfe"](necked).argmax(dim=1)  # its row of the classifier takes the place of n
        weights = {"embedding": necked, "class": model.classifiers["mfe"].weight[winner]}
    for target, channels in weights.items():
        expected = torch.einsum("bc,bchw->bhw", channels * gain, last).relu()
        np.testing.assert_allclose(branch_activations(model, images, target=target)["mfe"], unit(expected), atol=1e-4)


@pytest.mark.parametrize("target", ["embedding", "class"])
def test_the_dsa_map_is_what_enters_the_last_stage_weighted_by_its_gradient(images, batch, target):
    model = make_model().eval()
    torch.manual_seed(4)  # one for which some of the maps are not 0 everywhere
    torch.nn.init.normal_(model.classifiers["tfc3"].weight)

    def explained(one_map):
        necked = model.necks["tfc3"](model.dsa["tfc3"].forward_cls(one_map[None]))
        return necked.square().sum() / 2 if target == "embedding" else model.classifiers["tfc3"](necked).max()

    expected = []
    for one_map in entering_maps(model, batch)["tfc3"]:
        gradient = torch.func.grad(explained)(one_map)
        expected.append(sum(gradient[c] * one_map[c] for c in range(len(one_map))).relu())
    assert any(one.any() for one in expected)
    found = branch_activations(model, images, target=target)
    assert list(found) == ["mfe", "tfc3"]
    np.testing.assert_allclose(found["tfc3"], unit(torch.stack(expected)), atol=1e-3)


def test_the_dsa_map_is_bright_where_cls_looks(images, monkeypatch):
    """The map of a stage whose CLS reads the token in row 2, column 1 and nothing else is 1 there and 0 elsewhere."""
    model = make_model()
    model.necks["tfc3"].running_mean.zero_()  # channels that are 0 or more on average weigh 0 or more
    monkeypatch.setattr(model.dsa["tfc3"], "forward", lambda entering: (entering[:, :32, 2, 1], entering))
    for maps in branch_activations(model, images)["tfc3"]:
        assert maps[2, 1] == 1
        assert maps.sum() == 1


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hat_mobilenet_v2", {}),
        ("hat_mobilenet_v2", {"mfe_supervision": False}),
        ("hat_mobilenet_v2", {"depths": (0, 0, 0, 1), "downscale": 8}),
        ("hat_mobilenet_v2", {"nea": False, "auxiliary_loss": False}),
        ("hat_resnet18", {"backbone": {"name": "resnet18", "last_stride": 2}, "depths": (1, 0, 1, 0)}),
        ("hat_mobilenet_v3_small", {"transformer": {"norm_order": "pre", "head_dim": 4}, "last_nea": True}),
    ],
)
def test_shapes_and_ranges_hold_for_every_kind_of_model(images, name, changes):
    model = make_model(name, **changes)
    found = branch_activations(model, images)
    assert list(found) == list(model.config.embedding_branches)
    grids = dict.fromkeys(found, model.config.token_grid) | {"mfe": (64 // 16, 32 // 16)}
    if model.config.backbone.last_stride == 2:
        grids["mfe"] = (64 // 32, 32 // 32)
    for branch, maps in found.items():
        assert maps.shape == (3, *grids[branch]) and maps.dtype == np.float32
        assert {(one.min(), one.max()) for one in maps} <= {(0.0, 1.0), (0.0, 0.0)}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_frozen_parameters_and_the_callers_gradient_mode_change_nothing(images, mode):
    model = make_model()
    expected = branch_activations(model, images)
    model.requires_grad_(False)
    with mode():
        found = branch_activations(model, images)
    for name, maps in expected.items():
        np.testing.assert_array_equal(found[name], maps)


def test_many_images_give_the_maps_that_each_gives_alone(images):
    model = make_model()
    found = branch_activations(model, images * 7)
    for name, maps in branch_activations(model, images[1:2]).items():
        np.testing.assert_allclose(found[name][19], maps[0], atol=1e-3)


def test_wrong_requests_are_refused_with_a_reason(images):
    model = make_model()
    wrong = {"at least one": [], "put it in a list": images[0], "expected PIL images": [np.zeros((4, 2, 3))]}
    for message, given in wrong.items():
        for compute in (branch_activations, tfc_maps):
            with pytest.raises(UsageError, match=message):
                compute(model, given)
    with pytest.raises(UsageError, match="target must be one of"):
        branch_activations(model, images, target="logits")
    with pytest.raises(UsageError, match="no supervised MFE"):
        activation_maps(model, images, baseline=make_model(mfe_supervision=False))


@pytest.mark.parametrize("order", ["post", "pre"])
def test_maps_and_attention_equal_the_recursion_by_hand(images, batch, order):
    model = make_model(transformer={"norm_order": order}).eval()
    found, attended = token_maps(model, images), cls_attention(model, images)
    assert list(found) == list(attended) == ["tfc1", "tfc2", "tfc3"]
    with torch.no_grad():
        for name, entering in entering_maps(model, batch).items():
            stage = model.dsa[name]
            tokens = stage.embed(entering)
            for block in stage.blocks[:-1]:
                tokens = block(tokens)
            last = stage.blocks[-1]
            asked = last.norm1(tokens) if order == "pre" else tokens
            weights = last.attention.weights(asked)[:, :, 0].mean(dim=1)  # (B, 1 + 8)
            for row, column in itertools.product(range(4), range(2)):
                np.testing.assert_allclose(attended[name][:, row, column], weights[:, 1 + 2 * row + column], atol=1e-6)
            np.testing.assert_allclose(attended[name].sum(axis=(1, 2)), 1 - weights[:, 0].numpy(), atol=1e-5)
            assert (weights[:, 0] > 0).all()
            calibrated = last(tokens)[:, 1:].transpose(1, 2).reshape(3, -1, 4, 2)
            np.testing.assert_allclose(found[name], stage.nea(calibrated).abs().mean(dim=1).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"depths": (0, 2, 0, 1)}, {"depths": (0, 0, 0, 1), "downscale": 8}, {"mfe_supervision": False, "depths": (1, 0, 0, 0)}],
)
def test_every_stage_that_is_used_has_maps_of_the_token_grid(images, changes):
    model = make_model(**changes)
    for maps in (token_maps(model, images * 7), cls_attention(model, images * 7)):
        assert list(maps) == [f"tfc{level}" for level in model.config.levels]
        for values in maps.values():
            assert values.shape == (21, *model.config.token_grid) and values.dtype == np.float32
            np.testing.assert_allclose(values[:3], values[18:], atol=1e-4)
            assert np.ptp(values) > 0


@pytest.mark.parametrize("compute", [branch_activations, token_maps, cls_attention, tfc_maps])
def test_the_model_is_left_as_it_was_also_after_an_error(images, compute, monkeypatch):
    model = make_model().train()
    model.mfe.eval()  # modes may differ by submodule, as where part of a model is frozen
    model.dsa.cls_only = True
    modes = [module.training for module in model.modules()]

    def check():
        assert [module.training for module in model.modules()] == modes and model.dsa.cls_only is True
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())

    compute(model, images)
    check()
    monkeypatch.setattr(model.dsa["tfc3"], "embed", Mock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        compute(model, images)
    check()


def test_pictures_of_maps_have_a_row_for_each_map(images):
    model, step = make_model(), 220 + 16
    plain = activation_maps(model, images[:1]).height
    assert activation_maps(model, images[:1], baseline=make_model("hat_mobilenet_v3_small")).height == plain + step
    assert activation_maps(make_model(mfe_supervision=False), images[:1]).height == plain - step
    one, two = (tfc_maps(make_model(depths=depths), images[:1]).height for depths in ((0, 0, 0, 1), (0, 0, 1, 1)))
    assert two == one + 2 * step

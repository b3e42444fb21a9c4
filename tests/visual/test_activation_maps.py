"""Class activation maps against closed forms and gradients taken another way."""

import numpy as np
import pytest
import torch

from hat.errors import UsageError
from hat.model.dsa import scale_map
from hat.visual import activation_maps, branch_activations


def unit(maps):
    """Each map scaled to its own range, by loops."""
    ranges = [(one, one.min(), one.max()) for one in maps.detach().numpy()]
    return np.stack([(one - low) / (high - low) if high > low else 0 * one for one, low, high in ranges])


def entering_map(model, batch):
    """What enters the last stage, by the recursion of Eq. 6."""
    levels, carried = model.mfe(model.preprocessing.normalize(batch)), None
    for level in model.config.levels:
        name = f"tfc{level}"
        entering = scale_map(model.bottlenecks[name](levels[level - 1]), model.config.token_grid)
        entering = entering if carried is None else torch.cat([entering, carried], dim=1)
        _, carried = model.dsa[name](entering)
    return entering, levels[-1]


@pytest.fixture
def batch(make_model, images):
    return torch.stack([make_model().preprocessing(image) for image in images])


def test_the_mfe_map_of_the_embedding_has_a_closed_form(make_model, images, batch):
    model = make_model().eval()
    with torch.no_grad():
        last = model.mfe(model.preprocessing.normalize(batch))[-1]
        neck = model.necks["mfe"]
        gain = neck.weight / (neck.running_var + neck.eps).sqrt()
        # y = |n|^2 / 2, n = gain * (mean of A - running mean): the gradient is n_c gain_c / hw at every position of channel c.
        necked = gain * (last.mean(dim=(2, 3)) - neck.running_mean)
        expected = torch.einsum("bc,bchw->bhw", necked * gain, last).relu()
    np.testing.assert_allclose(branch_activations(model, images)["mfe"], unit(expected), atol=1e-4)


def test_the_mfe_map_of_a_class_is_its_row_of_the_classifier(make_model, images, batch):
    model = make_model().eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.classifiers["mfe"].weight)
        last = model.mfe(model.preprocessing.normalize(batch))[-1]
        neck = model.necks["mfe"]
        gain = neck.weight / (neck.running_var + neck.eps).sqrt()
        winner = model.classifiers["mfe"](neck(last.mean(dim=(2, 3)))).argmax(dim=1)
        expected = torch.einsum("bc,bchw->bhw", model.classifiers["mfe"].weight[winner] * gain, last).relu()
    np.testing.assert_allclose(branch_activations(model, images, target="class")["mfe"], unit(expected), atol=1e-4)


@pytest.mark.parametrize("target", ["embedding", "class"])
def test_the_dsa_map_is_what_enters_the_last_stage_weighted_by_its_gradient(make_model, images, batch, target):
    model = make_model().eval()
    torch.manual_seed(4)  # one for which some of the maps are not 0 everywhere
    torch.nn.init.normal_(model.classifiers["tfc3"].weight)
    with torch.no_grad():
        entering, _ = entering_map(model, batch)

    def explained(one_map):
        necked = model.necks["tfc3"](model.dsa["tfc3"].forward_cls(one_map[None]))
        return necked.square().sum() / 2 if target == "embedding" else model.classifiers["tfc3"](necked).max()

    expected = []
    for one_map in entering:
        gradient = torch.func.grad(explained)(one_map)
        expected.append(sum(gradient[c] * one_map[c] for c in range(len(one_map))).relu())
    assert any(one.any() for one in expected)
    found = branch_activations(model, images, target=target)
    assert list(found) == ["mfe", "tfc3"]
    np.testing.assert_allclose(found["tfc3"], unit(torch.stack(expected)), atol=1e-3)


def test_the_dsa_map_is_bright_where_cls_looks(make_model, images, monkeypatch):
    """With a stage whose CLS reads the token in row 2, column 1 and nothing else, the map is 1 there and 0 elsewhere."""
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
def test_shapes_and_ranges_hold_for_every_kind_of_model(make_model, images, name, changes):
    model = make_model(name, **changes)
    found = branch_activations(model, images)
    assert list(found) == list(model.config.embedding_branches)
    grids = dict.fromkeys(found, model.config.token_grid) | {"mfe": (64 // 16, 32 // 16)}
    if model.config.backbone.last_stride == 2:
        grids["mfe"] = (64 // 32, 32 // 32)
    for branch, maps in found.items():
        assert maps.shape == (3, *grids[branch])
        assert maps.dtype == np.float32
        assert maps.min() >= 0
        assert maps.max() <= 1
        for one in maps:
            assert (one.min(), one.max()) in [(0.0, 1.0), (0.0, 0.0)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_frozen_parameters_and_the_callers_gradient_mode_change_nothing(make_model, images, mode):
    model = make_model()
    expected = branch_activations(model, images)
    model.requires_grad_(False)
    with mode():
        found = branch_activations(model, images)
    for name, maps in expected.items():
        np.testing.assert_array_equal(found[name], maps)


def test_many_images_give_the_maps_that_each_gives_alone(make_model, images):
    model, many = make_model(), images * 7
    found = branch_activations(model, many)
    for name, maps in branch_activations(model, images[1:2]).items():
        np.testing.assert_allclose(found[name][19], maps[0], atol=1e-3)


def test_the_model_is_left_as_it_was_also_after_an_error(make_model, images, assert_left_as_it_was, monkeypatch):
    model = make_model()
    check = assert_left_as_it_was(model)
    branch_activations(model, images)
    check()

    def fail(_):
        raise ZeroDivisionError

    monkeypatch.setattr(model, "_head", None)
    monkeypatch.setattr(model, "features", fail)
    with pytest.raises(ZeroDivisionError):
        branch_activations(model, images)
    check()


def test_activation_maps_has_a_row_for_each_map(make_model, images):
    model, step = make_model(), 220 + 16
    plain = activation_maps(model, images[:1]).height
    assert activation_maps(model, images[:1], baseline=make_model("hat_mobilenet_v3_small")).height == plain + step
    assert activation_maps(make_model(mfe_supervision=False), images[:1]).height == plain - step


def test_wrong_requests_are_refused_with_a_reason(make_model, images):
    model = make_model()
    for wrong, message in [
        ([], "at least one"),
        (images[0], "put it in a list"),
        ([np.zeros((4, 2, 3))], "expected PIL images"),
    ]:
        with pytest.raises(UsageError, match=message):
            branch_activations(model, wrong)
    with pytest.raises(UsageError, match="target must be one of"):
        branch_activations(model, images, target="logits")
    with pytest.raises(UsageError, match="no supervised MFE"):
        activation_maps(model, images, baseline=make_model(mfe_supervision=False))

"""The network as a whole: every configuration of the paper's tables builds, learns and embeds."""

import itertools

import pytest
import torch

import hat
from hat.errors import ConfigError, ModelError

TABLE_2 = [
    *[(12, 0, 0, 0), (0, 12, 0, 0), (0, 0, 12, 0), (0, 0, 0, 12), (3, 3, 3, 3), (0, 4, 4, 4)],
    *[(4, 4, 4, 0), (3, 4, 5, 0), (3, 3, 6, 0), (0, 0, 6, 0), (0, 0, 0, 0)],
]
SWITCHES = itertools.product(("post", "pre"), (True, False), (True, False), (True, False))
SWITCHES = [(downscale, *switches) for downscale, switches in zip(itertools.cycle((8, 16, 32)), SWITCHES, strict=False)]
NARROW = {"num_heads": 4, "ffn_dim": 32, "dropout": 0.0}


def tiny(**overrides):
    """A HAT with every part of the large one and a hundredth of its size."""
    settings = {"image_size": (64, 32), "depths": (1, 1, 2, 0), "widths": (16, 24, 32, 32), "num_bottlenecks": 1}
    settings |= {"transformer": NARROW, "backbone": {"name": "mobilenet_v3_small"}} | overrides
    torch.manual_seed(0)
    return hat.create_model("hat_resnet50", 5, **settings)


def backward(model, images):
    """Run a training step's forward and backward pass; return the branches and who has no gradient though it wants one."""
    branches = model(images).branches
    sum(branch.logits.square().mean() + branch.feature.square().mean() for branch in branches.values()).backward()
    wanting = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return branches, [name for name, gradient in wanting.items() if gradient is None or not gradient.abs().any()]


@pytest.mark.parametrize("depths", TABLE_2, ids=str)
def test_every_row_of_table_2_builds_trains_and_embeds(depths):
    model = tiny(depths=depths)
    levels = [level for level, depth in enumerate(depths, start=1) if depth]
    assert [len(stage.blocks) for stage in model.dsa.values()] == [depth for depth in depths if depth]
    branches, without = backward(model, torch.randn(4, 3, 64, 32))
    assert list(branches) == ["mfe", *(f"tfc{level}" for level in levels)] and without == []
    width = model.config.widths[levels[-1] - 1] if levels else 0
    assert model.eval()(torch.randn(2, 3, 64, 32)).shape == (2, 576 + width)


@pytest.mark.parametrize(("downscale", "norm_order", "mfe", "auxiliary", "nea"), SWITCHES)
def test_every_switch_gives_every_parameter_a_gradient(downscale, norm_order, mfe, auxiliary, nea):
    model = tiny(
        downscale=downscale,
        transformer=NARROW | {"norm_order": norm_order},
        mfe_supervision=mfe,
        auxiliary_loss=auxiliary,
        nea=nea,
        last_nea=downscale == 32,
    )
    branches, without = backward(model, torch.randn(4, 3, 64, 32))
    expected = (["mfe"] if mfe else []) + (["tfc1", "tfc2"] if auxiliary else []) + ["tfc3"]
    assert list(branches) == expected and without == []
    # Of the last NeA nothing reads anything.
    unread = {f"dsa.tfc3.nea.{name}" for name, _ in model.dsa["tfc3"].nea.named_parameters()}
    assert len(unread) == (9 if nea and downscale == 32 else 0)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == unread | {f"necks.{name}.bias" for name in expected}


@pytest.mark.parametrize("cls_only", [False, True])
def test_embeddings_are_unit_rows_also_for_a_batch_of_one(cls_only):
    model = tiny().eval()
    model.dsa.cls_only = cls_only
    images = torch.randn(3, 3, 64, 32)
    together = model(images)
    assert together.shape == (3, model.embed_dim) and together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm_order", ["post", "pre"])
def test_computing_cls_alone_changes_neither_features_nor_gradients(norm_order):
    images, gradients, outputs = torch.randn(4, 3, 64, 32), [], []
    for cls_only in (False, True):
        model = tiny(transformer=NARROW | {"norm_order": norm_order})
        model.dsa.cls_only = cls_only
        branches, _ = backward(model, images)
        outputs.append(torch.cat([branch.logits for branch in branches.values()]))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)


def test_the_embedding_joins_necked_mfe_and_last_cls_of_normalized_pixels():
    model = tiny().eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    images = (pixels / 255 - mean) / std
    features = model.features(images)
    joined = torch.cat([model.necks["mfe"](features["mfe"]), model.necks["tfc3"](features["tfc3"])], dim=1)
    torch.testing.assert_close(model(images), joined / joined.norm(dim=1, keepdim=True))
    torch.testing.assert_close(model(pixels), model(images))
    assert tiny(mfe_supervision=False).embed_dim == 32


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_projection_makes_the_embedding_of_the_joined_features_in_float32(precision):
    plain, model = tiny().eval(), tiny(projection_dim=7).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(6, 3, 64, 32)
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        joined, embeddings = plain(images), model(images)
        output = model.train()(images)
    rows = joined @ model.projection.weight.T + model.projection.bias
    torch.testing.assert_close(embeddings, rows / rows.norm(dim=1, keepdim=True))
    assert model.embed_dim == 7 and embeddings.shape == output.embedding.shape == (6, 7)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(6))
    output.embedding[:, 0].sum().backward()
    assert model.projection.weight.grad.abs().max() > 0


@pytest.mark.parametrize("size", [(96, 48), (64, 64), (32, 16), (256, 128)])
def test_another_image_size_runs_on_resampled_positions(size):
    assert tiny().eval()(torch.randn(2, 3, *size)).shape == (2, 576 + 32)
    assert tiny(image_size=size).eval()(torch.randn(2, 3, *size)).shape == (2, 576 + 32)


@pytest.mark.parametrize(
    ("reason", "settings"),
    [
        ("image_size 100 x 50 is no multiple of 16", {"image_size": (100, 50)}),
        ("image_size 48 x 32 is no multiple of 32", {"image_size": (48, 32), "downscale": 32}),
        (r"unknown key transformer\.head_dims \(did you mean head_dim\?\)", {"transformer": {"head_dims": 64}}),
        ("without mfe_supervision nothing is left", {"depths": (0, 0, 0, 0), "mfe_supervision": False}),
        ("width 20 is no multiple of num_heads 16", {"widths": (20, 32, 32, 32)}),
        ("num_heads and head_dim cannot both be null", {"transformer": {"num_heads": None}}),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_reason(reason, settings):
    with pytest.raises(ConfigError, match=reason):
        hat.create_model("hat_resnet50", 5, **settings)


def test_wrong_requests_name_what_is_wrong():
    with pytest.raises(ModelError, match="did you mean hat_resnet50"):
        hat.create_model("hat_resnet5", 5)
    with pytest.raises(ModelError, match="num_classes is at least 1"):
        hat.create_model("hat_resnet50", 0)
    with pytest.raises(ModelError, match=r"multiples of 16, got 60 x 32"):
        tiny().eval()(torch.randn(1, 3, 60, 32))

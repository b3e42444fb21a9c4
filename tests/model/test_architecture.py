"""The network as a whole: every configuration of the paper's tables builds, learns and embeds."""

import itertools

import pytest
import torch

import hat
from hat.errors import ConfigError, ModelError
from hat.model import list_models, model_config
from hat.model.layers import Attention

TABLE_2 = [
    (12, 0, 0, 0),
    (0, 12, 0, 0),
    (0, 0, 12, 0),
    (0, 0, 0, 12),
    (3, 3, 3, 3),
    (0, 4, 4, 4),
    (4, 4, 4, 0),
    (3, 4, 5, 0),
    (3, 3, 6, 0),
    (0, 0, 6, 0),
    (0, 0, 0, 0),
]
NARROW = {"num_heads": 4, "ffn_dim": 32, "dropout": 0.0}


def tiny(**overrides):
    """A HAT with every part of the large one and a hundredth of its size."""
    settings = {"image_size": (64, 32), "depths": (1, 1, 2, 0), "widths": (16, 24, 32, 32), "num_bottlenecks": 1}
    settings |= {"transformer": NARROW, "backbone": {"name": "mobilenet_v3_small"}} | overrides
    torch.manual_seed(0)
    return hat.create_model("hat_resnet50", 5, **settings)


def total_of(branches):
    return sum(branch.logits.square().mean() + branch.feature.square().mean() for branch in branches.values())


@pytest.mark.parametrize("depths", TABLE_2, ids=str)
def test_every_row_of_table_2_builds_trains_and_embeds(depths):
    model = tiny(depths=depths)
    levels = [level for level, depth in enumerate(depths, start=1) if depth]
    assert [len(stage.blocks) for stage in model.dsa.values()] == [depth for depth in depths if depth]
    branches = model(torch.randn(4, 3, 64, 32))
    assert list(branches) == ["mfe", *(f"tfc{level}" for level in levels)]
    total_of(branches).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().any())]
    assert without == []
    width = model.config.widths[levels[-1] - 1] if levels else 0
    assert model.eval()(torch.randn(2, 3, 64, 32)).shape == (2, 576 + width)


@pytest.mark.parametrize(
    ("downscale", "norm_order", "mfe", "auxiliary", "nea"),
    list(itertools.product((8, 16, 32), ("post", "pre"), (True, False), (True, False), (True, False))),
)
def test_every_switch_gives_every_parameter_a_gradient(downscale, norm_order, mfe, auxiliary, nea):
    model = tiny(
        downscale=downscale,
        transformer=NARROW | {"norm_order": norm_order},
        mfe_supervision=mfe,
        auxiliary_loss=auxiliary,
        nea=nea,
    )
    branches = model(torch.randn(4, 3, 64, 32))
    expected = (["mfe"] if mfe else []) + (["tfc1", "tfc2"] if auxiliary else []) + ["tfc3"]
    assert list(branches) == expected
    total_of(branches).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().any())]
    assert without == []
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == [f"necks.{name}.bias" for name in expected]


def test_released_form_freezes_only_what_nothing_reads():
    model = tiny(last_nea=True)
    total_of(model(torch.randn(4, 3, 64, 32))).backward()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad and not name.startswith("necks.")}
    assert frozen == {f"dsa.tfc3.nea.{name}" for name, _ in model.dsa["tfc3"].nea.named_parameters()}


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
        branches = model(images)
        total_of(branches).backward()
        outputs.append(torch.cat([branch.logits for branch in branches.values()]))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)


def test_the_embedding_joins_necked_mfe_and_last_cls():
    model = tiny().eval()
    images = torch.randn(2, 3, 64, 32)
    features = model.features(images)
    joined = torch.cat([model.necks["mfe"](features["mfe"]), model.necks["tfc3"](features["tfc3"])], dim=1)
    torch.testing.assert_close(model(images), joined / joined.norm(dim=1, keepdim=True))
    assert tiny(mfe_supervision=False).embed_dim == 32


def test_uint8_images_are_normalized_by_the_model():
    model = tiny().eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(model(pixels), model((pixels / 255 - mean) / std))


@pytest.mark.parametrize("size", [(96, 48), (64, 64), (32, 16), (256, 128)])
def test_another_image_size_runs_on_resampled_positions(size):
    assert tiny().eval()(torch.randn(2, 3, *size)).shape == (2, 576 + 32)
    assert tiny(image_size=size).eval()(torch.randn(2, 3, *size)).shape == (2, 576 + 32)


def test_an_image_of_another_size_is_refused_with_a_reason():
    model = tiny().eval()
    with pytest.raises(ModelError, match=r"multiples of 16, got 60 x 32"):
        model(torch.randn(1, 3, 60, 32))
    with pytest.raises(ModelError, match=r"\(B, 3, H, W\), got \(3, 64, 32\)"):
        model(torch.randn(3, 64, 32))
    with pytest.raises(ConfigError, match="image_size 100 x 50 is no multiple of 16"):
        tiny(image_size=(100, 50))
    with pytest.raises(ConfigError, match="image_size 48 x 32 is no multiple of 32"):
        tiny(image_size=(48, 32), downscale=32)


def test_wrong_requests_name_what_is_wrong():
    with pytest.raises(ModelError, match="did you mean hat_resnet50"):
        hat.create_model("hat_resnet5", 5)
    with pytest.raises(ConfigError, match=r"unknown key transformer\.head_dims \(did you mean head_dim\?\)"):
        hat.create_model("hat_resnet50", 5, transformer={"head_dims": 64})
    with pytest.raises(ConfigError, match="without mfe_supervision nothing is left"):
        tiny(depths=(0, 0, 0, 0), mfe_supervision=False)
    with pytest.raises(ConfigError, match="width 20 is no multiple of num_heads 16"):
        hat.create_model("hat_resnet50", 5, widths=(20, 32, 32, 32))
    with pytest.raises(ConfigError, match="num_heads and head_dim cannot both be null"):
        hat.create_model("hat_resnet50", 5, transformer={"num_heads": None})
    with pytest.raises(ModelError, match="num_classes is at least 1"):
        hat.create_model("hat_resnet50", 0)


@pytest.mark.parametrize("name", list_models())
def test_create_model_presets_have_heads_that_suit_attention_kernels(name):
    if "timm/" in model_config(name).backbone.name:
        pytest.importorskip("timm")
    with torch.device("meta"):
        model = hat.create_model(name, 1)
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    assert len(attentions) == sum(model.config.depths)
    assert all(attention.head_dim >= 16 and attention.head_dim % 8 == 0 for attention in attentions)

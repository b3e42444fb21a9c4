"""Counts by part against torch's own total, against formulas, and against the paper's tables."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hat.model import HAT, model_config
from hat.model.backbone import import_torchvision
from hat.model.complexity import count_complexity


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        *[("hat_resnet50_released", {}), ("hat_resnet18", {}), ("hat_resnext50_32x4d", {}), ("hat_googlenet", {})],
        *[("hat_convnext_tiny", {}), ("hat_mobilenet_v4_medium", {}), ("hat_mobilenet_v3_small", {})],
        ("hat_mobilenet_v2", {"image_size": (384, 128)}),
        ("hat_mobilenet_v2", {"downscale": 8, "pooling": "gem"}),
        ("hat_mobilenet_v2", {"downscale": 32, "depths": (0, 0, 0, 2)}),
        ("hat_mobilenet_v2", {"projection_dim": 256}),
    ],
)
def test_counts_equal_what_torch_dispatches(name, overrides):
    if name == "hat_mobilenet_v4_medium":
        pytest.importorskip("timm")
    config = model_config(name, **overrides)
    with torch.device("meta"):
        model = HAT(config, num_classes=1).eval()
        images = torch.zeros(1, 3, *config.image_size)
    for cls_only in (False, True):
        model.dsa.cls_only = cls_only
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(images)
        counts = count_complexity(config, cls_only=cls_only)
        assert counts.total_operations == counter.get_total_flops()
    classifiers = sum(parameter.numel() for parameter in model.classifiers.parameters())
    assert counts.total_params == sum(parameter.numel() for parameter in model.parameters()) - classifiers
    assert counts.embed_dim == model.embed_dim


def test_count_complexity_of_a_stage_is_the_sum_of_its_products():
    config = model_config("hat_mobilenet_v3_large")
    tokens, width, entering = 1 + 16 * 8, 256, 112 + 128
    embed = 2 * entering * width * 16 * 8

    def block(num_queries):
        """Operations of one block, written out from the shapes of Eq. 1 and 4."""
        projections = 2 * width * 2 * width * tokens + 2 * 2 * width * width * num_queries  # k and v; q and output
        attention, ffn = 2 * 2 * num_queries * tokens * width, 2 * 2 * width * 2 * width * num_queries
        return projections + attention + ffn

    whole, cls_only = (count_complexity(config, cls_only=flag).num_operations for flag in (False, True))
    assert whole.pop("tfc3") == embed + 2 * block(tokens)
    assert cls_only.pop("tfc3") == embed + block(tokens) + block(1)
    assert whole == cls_only


def test_count_complexity_of_the_rows_of_table_3():
    """Each row lacks what it is named for and nothing else: no other width changes."""

    def count(**overrides):
        return count_complexity(model_config("hat_resnet50", **overrides)).total_params

    def nea(channels):
        inner = channels // 4
        return 2 * channels * inner + 9 * inner * inner + norm * (2 * inner + channels)

    full, norm = count(), 2  # a batch norm has a scale and a shift for each channel
    with torch.device("meta"):
        resnet = {name: value.numel() for name, value in import_torchvision("models").resnet50().named_parameters()}
    res5 = sum(size for name, size in resnet.items() if name.startswith("layer4."))
    assert full - count(mfe_supervision=False) == res5 + norm * 2048
    assert round(count(mfe_supervision=False) / 1e6, 1) == 189.9
    assert full - count(auxiliary_loss=False) == norm * (256 + 768)
    assert full - count(nea=False) == nea(256) + nea(768)
    assert count(depths=(0, 0, 0, 0)) == sum(size for name, size in resnet.items() if "fc" not in name) + norm * 2048


def test_the_released_model_has_its_published_size_and_cls_alone_saves_a_tenth():
    config = model_config("hat_resnet50_released")
    counts, cls_only = (count_complexity(config, cls_only=flag) for flag in (False, True))
    assert round(counts.total_operations / 1e9, 1) == 46.4
    assert round(counts.total_params / 1e6) == 164
    assert 0.85 < cls_only.total_operations / counts.total_operations < 0.95


def test_the_edge_model_stays_small():
    counts = count_complexity(model_config("hat_mobilenet_v2"))
    assert counts.total_operations < 1.2e9
    assert counts.total_params < 8e6
    assert counts.embed_dim == 1280 + 256

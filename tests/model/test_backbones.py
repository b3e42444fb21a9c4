"""Every backbone gives four levels at the strides that HAT needs, and loads its library's weights by name."""

import pytest
import torch

import hat
from hat.errors import ModelError, WeightsError
from hat.io.weights import load_backbone_weights, read_state_file
from hat.model import BackboneConfig, build_backbone, list_backbones
from hat.model.backbone import import_torchvision

CAN_HOLD = [name for name in list_backbones() if not name.startswith("convnext")]


@pytest.mark.parametrize("name", list_backbones())
def test_levels_have_strides_4_8_16_and_the_last_one_follows_last_stride(name):
    for last_stride in (1, 2) if name in CAN_HOLD else (2,):
        with torch.device("meta"):
            backbone = build_backbone(BackboneConfig(name=name, last_stride=last_stride)).eval()
            levels = backbone(torch.zeros(1, 3, 128, 64))
        last = (8, 4) if last_stride == 1 else (4, 2)
        assert [tuple(level.shape[-2:]) for level in levels] == [(32, 16), (16, 8), (8, 4), last]
        assert tuple(level.shape[1] for level in levels) == backbone.channels


def test_resnet50_gives_what_torchvision_computes():
    torch.manual_seed(0)
    whole = import_torchvision("models").resnet50(weights=None).eval()
    backbone = build_backbone(BackboneConfig(last_stride=2)).eval()
    backbone.load_state_dict({name: value for name, value in whole.state_dict().items() if not name.startswith("fc.")})
    image = torch.randn(1, 3, 64, 32)
    x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(image))))
    expected = [x := layer(x) for layer in (whole.layer1, whole.layer2, whole.layer3, whole.layer4)]
    for ours, theirs in zip(backbone(image), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_variants_of_resnet_differ_where_they_should():
    with torch.device("meta"):
        variants = ({}, {"stem_relu": False}, {"stride_in_1x1": True})
        plain, without, first = (build_backbone(BackboneConfig(**options)) for options in variants)
        part = hat.create_model("hat_resnet18", 3, mfe_supervision=False)
    assert hasattr(plain, "relu") and not hasattr(without, "relu")
    assert (first.layer2[0].conv1.stride, first.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (plain.layer2[0].conv1.stride, plain.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert list(part.mfe._modules)[-1] == "layer3"  # nothing would read the last level


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BackboneConfig(name="resnet51"), "unknown backbone 'resnet51'"),
        (BackboneConfig(name="convnext_tiny"), "set backbone.last_stride to 2"),
        (BackboneConfig(name="mobilenet_v2", stem_relu=False), "stem_relu is an option of ResNets"),
        (BackboneConfig(name="resnet18", stride_in_1x1=True), "50 layers and more"),
        (BackboneConfig(name="timm/resnet0"), "timm has no model 'resnet0'"),
        (BackboneConfig(name="timm/vit_tiny_patch16_224"), "cannot be a backbone|strides|shapes"),
    ],
)
def test_what_a_backbone_cannot_do_is_refused(config, reason):
    if config.name.startswith("timm/"):
        pytest.importorskip("timm", reason="the extra timm is not installed")
    with pytest.raises(ModelError, match=reason):
        build_backbone(config)


@pytest.mark.parametrize(("name", "last_stride"), [("resnet18", 1), ("regnety_002", 2), ("convnext_atto", 2)])
def test_timm_models_are_backbones_and_load_timm_weights(name, last_stride, tmp_path):
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    torch.manual_seed(1)
    whole = timm.create_model(name).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    model = hat.create_model("hat_resnet18", 3, backbone={"name": f"timm/{name}", "last_stride": last_stride})
    assert "tensors" in load_backbone_weights(model, str(tmp_path / "whole.pth"))
    image = torch.randn(1, 3, 64, 64)
    expected = whole.forward_intermediates(image, intermediates_only=True)[-1]
    if last_stride == 2:
        torch.testing.assert_close(model.mfe.eval()(image)[-1], expected, atol=1e-4, rtol=1e-4)
    assert model.mfe(image)[-1].shape[1] == expected.shape[1]


def whole_state(name):
    torch.manual_seed(2)
    options = {"init_weights": False} if name == "googlenet" else {}
    return getattr(import_torchvision("models"), name)(weights=None, **options).state_dict()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "googlenet"])
def test_a_file_with_torchvision_names_loads_and_its_classifier_is_left_out(name, tmp_path):
    state = whole_state(name)
    torch.save({"state_dict": {f"module.{key}": value.half() for key, value in state.items()}}, tmp_path / "weights.pth")
    model = hat.create_model("hat_resnet18", 3, backbone={"name": name}, widths=(16, 16, 16, 16))
    load_backbone_weights(model, str(tmp_path / "weights.pth"))
    prefix = model.mfe.weight_prefix
    for key, value in model.mfe.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, state[prefix + key].half().float())


def test_a_file_that_does_not_fit_changes_nothing_and_says_why(tmp_path):
    model = hat.create_model("hat_resnet18", 3, depths=(1, 0, 0, 0))
    before = {name: value.clone() for name, value in model.mfe.state_dict().items()}
    state = whole_state("resnet18")
    cases = {
        "missing: layer4.1.bn2.weight": {key: value for key, value in state.items() if key != "layer4.1.bn2.weight"},
        "not part of the model: layer3.6": state | {"layer3.6.conv1.weight": torch.zeros(1)},
        "of another shape: conv1.weight": state | {"conv1.weight": torch.zeros(64, 3, 3, 3)},
        "not finite: in: bn1.weight": state | {"bn1.weight": torch.full((64,), torch.nan)},
    }
    for reason, content in cases.items():
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(WeightsError, match=reason):
            load_backbone_weights(model, str(tmp_path / "weights.pth"))
    with pytest.raises(WeightsError, match="no such file"):
        load_backbone_weights(model, str(tmp_path / "resnet50.pth"))
    assert all(torch.equal(value, before[name]) for name, value in model.mfe.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_or_other_things_are_refused(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    for content in (b"", b"\x80\x04garbage", b"PK\x03\x04broken zip", b"root:x:0:0"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged"):
            read_state_file(path)
    torch.save({"epoch": 3}, tmp_path / "state.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        read_state_file(tmp_path / "state.pth")

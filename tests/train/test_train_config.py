"""The tree of configurations: the paper's recipe, presets, overrides and refusals."""

import pytest
import yaml

from hat.config import config_from_dict, config_to_dict, config_to_yaml, parse_overrides
from hat.errors import ConfigError
from hat.model import model_config
from hat.model.complexity import count_complexity
from hat.train import TrainConfig, compose_config, list_presets, load_preset
from hat.train.command import PRESETS
from hat.train.presets import preset_differences, read_config_file


def test_the_papers_recipe_is_the_default():
    config = load_preset("market1501")
    assert config == TrainConfig()
    assert config.model_name == "hat_resnet50" and config.model == model_config("hat_resnet50", image_size=(256, 128))
    assert (config.sampler.num_identities, config.sampler.num_instances) == (16, 4)
    assert (config.augmentation.pad, config.augmentation.flip, config.augmentation.erasing) == (10, 0.5, 0.5)
    assert (config.augmentation.erasing_area, config.augmentation.erasing_ratio) == ((0.02, 0.4), (0.3, 3.33))
    assert (config.loss.label_smoothing, config.loss.margin, config.loss.auxiliary_weight) == (0.1, 0.3, 0.5)
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adam", 4e-4, 5e-4)
    schedule = config.schedule
    assert config.optim.tfc_lr_scale == 0.5 and schedule.warmup_factor * config.optim.lr == pytest.approx(4e-6)
    assert (schedule.warmup_epochs, schedule.gamma, schedule.milestones) == (10, 0.4, (50, 70, 90, 110, 130))
    assert config.num_epochs == 150 and not config.ema.enabled and config.backbone_weights is None


@pytest.mark.parametrize(
    ("name", "limit"), [("market1501-edge-small", 0.546e9), ("market1501-edge", 1.143e9), ("market1501-edge-large", 1.958e9)]
)
def test_the_edge_family_needs_fewer_operations_than_its_peers(name, limit):
    # Multiplications and additions of the convolutions and products in Open Model Zoo's retail-0287, -0286 and -0277.
    if "large" in name:
        pytest.importorskip("timm", reason="the extra timm is not installed")
    complexity = count_complexity(load_preset(name).model, cls_only=True)
    assert 0.7 * limit < complexity.total_operations < limit
    told = PRESETS[name]
    assert f"{complexity.total_operations / 1e9:.2f} GFLOP" in told and "--teacher" in told


def test_the_help_of_the_command_names_every_preset():
    assert list(PRESETS) == list_presets()


def leaves(tree, path=()):
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: value for name, inner in tree.items() for key, value in leaves(inner, (*path, name)).items()}


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_is_valid_and_holds_only_differences(name):
    config = load_preset(name)
    assert config_from_dict(TrainConfig, yaml.safe_load(config_to_yaml(config))) == config
    changes = preset_differences(name)
    # What a preset says of the architecture is compared with its own model's.
    base = compose_config([("", {"model_name": changes.get("model_name", "hat_resnet50")})])
    defaults = leaves(config_to_dict(base)) | {("model_name",): "hat_resnet50"}
    assert all(defaults[path] != value for path, value in leaves(changes).items())


def compose(*assignments, **top):
    return compose_config([("preset market1501", {}), ("", {**top, **parse_overrides(assignments)})])


def test_overrides_reach_the_model_and_the_recipe():
    config = compose("model.depths=[3,3,3,3]", "model.backbone.name=resnet18", "optim.lr=3e-4", "loss.margin=null")
    assert config.model.depths == (3, 3, 3, 3) and config.model.backbone.name == "resnet18"
    assert config.optim.lr == 3e-4 and config.loss.margin is None
    assert config.model.transformer == TrainConfig().model.transformer


def test_another_model_begins_with_its_own_architecture():
    layers = [("a", {"model_name": "hat_mobilenet_v2", "model": {"image_size": [128, 64]}}), ("b", {"optim": {"lr": 1e-3}})]
    config = compose_config(layers)
    assert config.model == model_config("hat_mobilenet_v2", image_size=(128, 64))
    changed = compose_config([*layers, ("c", {"model_name": "hat_resnet18", "model": {"num_bottlenecks": 1}})])
    assert changed.model == model_config("hat_resnet18", num_bottlenecks=1)
    assert changed.optim.lr == 1e-3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimm.lr=1", r"unknown key optimm \(did you mean optim\?\)"),
        ("optim.lr=-1", r"optim\.lr: .*greater than 0, got -1"),
        ("sampler.num_instances=1", r"sampler\.num_instances: .*2, got 1"),
        ("schedule.milestones=[50,40]", r"milestones ascend without repeats, got \[50\.0, 40\.0\]"),
        ("augmentation.erasing_area=[0.5,0.2]", r"erasing_area is \(smallest, largest\), got \(0\.5, 0\.2\)"),
        ("augmentation.erasing_area=[0.5,2]", r"at most 1, got 2"),
        ("augmentation.pad=128", r"augmentation\.pad is 128 and must be smaller than the image, 128"),
        ("num_epochs=0", r"num_epochs is 0 and there is no projection to fit"),
        ("model.projection_dim=64", r"only a teacher trains the projection: name one as distill\.teacher"),
        ("schedule.kind=cosine num_epochs=8", r"warmup_epochs is 10 and leaves nothing of num_epochs=8"),
    ],
)
def test_mistakes_are_refused_by_their_path(assignment, message):
    with pytest.raises(ConfigError, match=message):
        compose(*assignment.split())


def test_configuration_files(tmp_path):
    path = tmp_path / "changes.yaml"
    path.write_text("optim: {lr: 0.001}\n")
    assert read_config_file(path) == {"optim": {"lr": 0.001}}
    with pytest.raises(ConfigError, match=r"changes\.yaml: unknown key optim\.rl"):
        compose_config([(str(path), {"optim": {"rl": 1}})])
    for content, message in (("- 1\n", "expected keys and values, got list"), ("a: [\n", "is not YAML"), ("", "got NoneType")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=message):
            read_config_file(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_config_file(tmp_path / "nothing.yaml")

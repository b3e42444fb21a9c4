"""Configurations: overrides by path, errors that name the path, plain data there and back."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hat.config import apply_overrides, config_from_dict, config_to_dict, config_to_yaml, merge, parse_overrides
from hat.errors import ConfigError
from hat.model import ModelConfig, list_models, model_config


def test_values_are_read_as_people_mean_them():
    texts = {"3e-4": 3e-4, "1": 1, "true": True, "null": None, "[3,3,6,0]": [3, 3, 6, 0], "resnet18": "resnet18", "1e3": 1e3}
    for text, value in texts.items():
        parsed = parse_overrides([f"a.b={text}"])
        assert parsed == {"a": {"b": value}} and type(parsed["a"]["b"]) is type(value)


def test_overrides_reach_nested_fields_and_leave_the_rest():
    config = apply_overrides(ModelConfig(), parse_overrides(["transformer.num_heads=8", "depths=[3,3,3,3]"]))
    assert (config.transformer.num_heads, config.depths) == (8, (3, 3, 3, 3))
    assert config.transformer.dropout == ModelConfig().transformer.dropout


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("transformer.heads=8", r"unknown key transformer\.heads \(did you mean num_heads\?\)"),
        ("transformer.dropout=1.5", r"transformer\.dropout: input should be less than 1, got 1\.5"),
        ("downscale=12", "downscale: input should be 8, 16 or 32, got 12"),
        ("depths=[1,2]", "depths"),
        ("image_size=[256,100]", "image_size 256 x 100 is no multiple of 16"),
        ("nonsense", "expected an override like"),
        ("=3", "expected an override like"),
        ("a.b=[1", "is not a YAML value"),
        ("a=1 a.b=2", r"a\.b overrides inside a"),
    ],
)
def test_wrong_overrides_are_named_by_their_path(assignment, reason):
    with pytest.raises(ConfigError, match=reason):
        apply_overrides(ModelConfig(), parse_overrides(assignment.split()))


def test_plain_data_gives_the_same_configuration_back():
    for config in map(model_config, list_models()):
        assert config_from_dict(ModelConfig, config_to_dict(config)) == config
        assert config_from_dict(ModelConfig, yaml.safe_load(config_to_yaml(config))) == config


trees = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8)


@given(st.dictionaries(st.sampled_from("abc"), trees), st.dictionaries(st.sampled_from("abc"), trees))
def test_merging_changes_neither_argument_and_keeps_what_is_not_named(base, changes):
    before = (repr(base), repr(changes))
    merged = merge(base, changes)
    assert (repr(base), repr(changes)) == before
    assert merged.keys() == base.keys() | changes.keys()
    assert all(merged[key] == base[key] for key in base.keys() - changes.keys())
    assert merge(merged, changes) == merged

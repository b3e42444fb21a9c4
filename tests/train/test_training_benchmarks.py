"""The scripts that drive training: their rows are configurations, their schedule is the paper's, their estimate adds up."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hat.config import config_to_dict, parse_overrides
from hat.model.complexity import count_complexity
from hat.train import TrainConfig, compose_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def ablations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablations", BENCHMARKS / "ablations.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_changes_one_thing(ablations: ModuleType) -> None:
    paper = compose_config([("", {})])
    for name, (_, _, settings) in ablations.ROWS.items():
        config = compose_config([("", parse_overrides(settings))])
        assert len(settings) == (name != "base"), name
        assert (config == paper) == (name == "base"), name
    assert {"base", "no-nea", "d-8", "depths-0-0-12-0", "depths-4-4-4-0"} <= set(ablations.DEFAULT_ROWS) < set(ablations.ROWS)


def test_the_schedule_is_the_papers_shortened_in_all_its_parts(ablations: ModuleType) -> None:
    whole = compose_config([("", parse_overrides(ablations.schedule(150)))])
    assert config_to_dict(whole) == config_to_dict(TrainConfig())
    short = compose_config([("", parse_overrides(ablations.schedule(60)))])
    assert short.num_epochs == 60 and short.schedule.warmup_epochs == 4
    assert short.schedule.milestones == (20, 28, 36, 44, 52)


def test_the_estimate_adds_up() -> None:
    small = ["--set", "model.image_size=[64,32]", "--set", "num_epochs=7", "--set", "augmentation.pad=4"]
    options = [*small, "--images-per-epoch", "1000", "--share", "0.5", "--peak-tflops", "2", "--json"]
    command = [sys.executable, str(BENCHMARKS / "training_cost.py"), "market1501-cpu", *options]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    config = compose_config([("", {"model_name": "hat_mobilenet_v2", "model": {"image_size": [64, 32]}})])
    operations = count_complexity(config.model).total_operations
    assert found["PFLOP of the run"] == pytest.approx(3 * operations * 7000 / 1e15)
    assert found["minutes"] == pytest.approx(3 * operations * 7000 / 1e12 / 60)
    assert found["images/s"] == pytest.approx(1e12 / (3 * operations))
    assert found["GB of training images"] == pytest.approx(3 * 64 * 32 * 1000 / 1e9)
    assert 0.01 < found["GB of activations"] < 1

"""The scripts of a GPU session, rehearsed on a CPU: each gives its results as JSON lines and ends well."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hat.data.synth import generate_dataset

SESSION = Path(__file__).parents[1] / "benchmarks" / "gpu_session"


def rehearse(script, *options):
    command = [sys.executable, SESSION / script, "--device", "cpu", "--seconds", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line["script"] for line in lines if line["result"] == "end"], {line["result"]: line for line in lines}


def test_a_session_is_rehearsed_on_a_cpu():
    scripts, results = rehearse("run.py", "--model", "tiny")
    assert scripts == ["runtime_parity", "engine_runtime", "training_probe"]
    assert results["torch_fp32"]["worst_cosine"] > 0.999999
    assert results["captured"]["max_abs"] < 1e-6
    assert results["tf32"]["images_per_s"] > 0


@pytest.mark.slow
def test_real_training_is_rehearsed_on_a_cpu(tmp_path):
    people = tmp_path / "people"
    generate_dataset(people, num_ids=12, num_cameras=2, images_per_camera=2, num_train_ids=8, size=(128, 64), num_workers=1)
    _, results = rehearse("real_training.py", "--data", people, "--recipe", "quick")
    assert results["training"]["epochs"] == 1
    assert 0 < results["evaluation"]["mAP"] <= 1

"""A run that is killed with SIGKILL, then asked to end with SIGTERM, as real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_run import TINY_RUN

from hat.config import merge

CHANGES = {
    "num_epochs": 8,
    "checkpoint": {"every_epochs": 4, "every_steps": 2},
    "ema": {"enabled": True},
    "optim": {"clip_grad_norm": 5.0},
}
NUM_STEPS = 24


@pytest.fixture(scope="module")
def command(market_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(merge(TINY_RUN, CHANGES)))
    options = ["--config", str(recipe), "--data", f"market-style={market_folder}", "--device", "cpu"]
    return [sys.executable, "-m", "hat", "train", "market1501", *options]


def steps_done(out: Path) -> int:
    try:
        return len((out / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def signal_after(command: list[str], out: Path, num_steps: int, number: signal.Signals) -> tuple[int, int, str]:
    """Start the command and signal it as soon as it has written so many lines: lines written, exit code, what it said."""
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while steps_done(out) < num_steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate()
    return steps_done(out), process.returncode, errors.decode()


def test_a_killed_run_ends_in_the_weights_of_one_that_was_not(command: list[str], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True, timeout=120)

    first, code, said = signal_after(command, killed, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL, said
    assert 3 <= first < NUM_STEPS
    second, code, said = signal_after([*command, "--resume"], killed, first + 3, signal.SIGTERM)
    assert code == 0, said
    assert first < second < NUM_STEPS
    assert f"step {(second - 1) % 3 + 1} of 3: the process was asked to end" in said.replace("\n", " ")
    assert torch.load(killed / "last" / "state.pt", weights_only=True)["global_step"] == second
    done = subprocess.run(
        [*command, "--resume", "--json", "--out", str(killed)], check=True, capture_output=True, timeout=120, text=True
    )
    result = json.loads(done.stdout)
    assert result["num_steps"] == NUM_STEPS
    assert result["num_images"] < NUM_STEPS * 8, "it went on and did not start again"

    for name in ("model.safetensors", "last/model.safetensors"):
        ours, theirs = load_file(whole / name), load_file(killed / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    states = [torch.load(folder / "last" / "state.pt", weights_only=True) for folder in (whole, killed)]
    assert all(torch.equal(states[0]["model"][key], states[1]["model"][key]) for key in states[0]["model"])
    lines = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (whole, killed)]
    for entry in lines[0] + lines[1]:
        del entry["images_per_s"]
    assert lines[0] == lines[1]
    assert not [path.name for path in killed.rglob(".*")], "no temporary file is left of a run that ended"

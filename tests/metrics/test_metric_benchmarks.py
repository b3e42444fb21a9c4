"""The benchmark scripts run from a checkout, agree with their peers, and can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--num-query", "60", "--num-gallery", "400", "--num-pids", "20", "--embed-dim", "32", "--json"]


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *SMALL, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("script", "options"), [("ranking_speed.py", []), ("rerank_speed.py", []), ("evaluation_memory.py", ["--peer"])]
)
def test_agrees_with_its_peer(script, options):
    done = run(script, *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"]
    assert 0 <= result["largest_difference"] < 1e-5
    for side in ("ours", "peer"):
        assert 0 < result[side]["wall_s"] < 60
        assert result[side]["peak_bytes"] >= result[side]["peak_bytes_before"] > 2**20


def test_a_missed_bar_is_exit_code_one():
    done = run("evaluation_memory.py", "--max-mebibytes", "1")
    assert done.returncode == 1
    assert not json.loads(done.stdout)["passed"]
    assert "not within the bars" in done.stderr

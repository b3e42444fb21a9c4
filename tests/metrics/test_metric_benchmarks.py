"""The benchmark scripts run from a checkout, agree with their peers, and can fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--num-query", "60", "--num-gallery", "400", "--num-pids", "20", "--embed-dim", "32", "--json"]


@pytest.mark.parametrize(
    ("script", "options"),
    [("ranking_speed.py", []), ("rerank_speed.py", []), ("evaluation_memory.py", ["--peer", "--max-mebibytes", "1"])],
)
def test_agrees_with_its_peer_and_a_missed_bar_is_exit_code_one(script, options):
    command = [sys.executable, str(BENCHMARKS / script), *SMALL, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    result = json.loads(done.stdout)
    assert (done.returncode, result["passed"]) == ((1, False) if "--max-mebibytes" in options else (0, True)), done.stderr
    assert ("not within the bars" in done.stderr) == ("--max-mebibytes" in options)
    assert 0 <= result["largest_difference"] < 1e-5
    for side in ("ours", "peer"):
        assert 0 < result[side]["wall_s"] < 60
        assert result[side]["peak_bytes"] >= result[side]["peak_bytes_before"] > 2**20

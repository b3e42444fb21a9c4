"""The scripts of a GPU session, rehearsed on a CPU: each gives its results as JSON lines and ends well."""

import json
import subprocess
import sys
from pathlib import Path

SESSION = Path(__file__).parents[1] / "benchmarks" / "gpu_session" / "run.py"


def test_a_session_is_rehearsed_on_a_cpu():
    command = [sys.executable, SESSION, "--device", "cpu", "--seconds", "1", "--model", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    ended = [line["script"] for line in lines if line["result"] == "end"]
    assert ended == ["runtime_parity", "engine_runtime", "training_probe"]
    results = {line["result"]: line for line in lines}
    assert results["torch_fp32"]["worst_cosine"] > 0.999999
    assert results["captured"]["max_abs"] < 1e-6
    assert results["tf32"]["images_per_s"] > 0

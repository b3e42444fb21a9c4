"""Everything that a short session on a GPU is asked, in order of what is worth most; one JSON line a result.

    python benchmarks/gpu_session/run.py --minutes 15 --data DATA --backbone-weights resnet50.safetensors | tee session.jsonl
    python benchmarks/gpu_session/run.py --device cpu --seconds 1 --model tiny      # a rehearsal

It needs torch and this package; ONNX Runtime where it is installed. Each script is a process of its own with its own
clock, so that one that fails takes nothing else with it.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SHARES = {"runtime_parity": 0.2, "engine_runtime": 0.05, "training_probe": 0.15}
"""Script -> its share of the time; the tests marked ``gpu``, starting processes and, with data, real training take the rest."""
TRAINING_SHARE = 0.6
"""Of what the scripts left."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=15, help="what the whole session may take")
    parser.add_argument("--seconds", type=float, help="what each script may take, in place of its share of the session")
    parser.add_argument("--model", default="hat_resnet50")
    parser.add_argument("--data", help="a data set: a real run of --recipe on it and its evaluation come after the scripts")
    parser.add_argument("--recipe", default="market1501-plus")
    parser.add_argument("--backbone-weights", default="none", help="a file, for --recipe")
    arguments = parser.parse_args()
    total, begin, failed = arguments.minutes * 60, time.monotonic(), 0
    for script, share in SHARES.items():
        seconds = arguments.seconds or total * share
        command = [sys.executable, HERE / f"{script}.py", "--device", arguments.device, "--seconds", str(seconds)]
        # Begun work is finished: a script gets half as much again before it is stopped.
        failed += call(
            script, [*command, "--model", arguments.model], limit=max(seconds * 1.5, 300 if arguments.seconds else 0)
        )
    if arguments.data:
        seconds = arguments.seconds or TRAINING_SHARE * (total - (time.monotonic() - begin))
        command = [sys.executable, HERE / "real_training.py", "--device", arguments.device, "--seconds", str(seconds)]
        command += ["--data", arguments.data, "--recipe", arguments.recipe, "--backbone-weights", arguments.backbone_weights]
        failed += call("real_training", command, limit=max(seconds * 1.5, 300))
    left = total - (time.monotonic() - begin)
    if arguments.device != "cpu":
        tests = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", "gpu", HERE.parents[1] / "tests"]
        failed += call("tests", tests, limit=max(left, 60))
    return 1 if failed else 0


def call(name: str, command: list, *, limit: float) -> bool:
    """Run a process, whose output goes through, and report how it ended. True where it failed."""
    start = time.monotonic()
    try:
        code = subprocess.run(list(map(str, command)), check=False, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        code = None
    seconds = round(time.monotonic() - start, 1)
    print(json.dumps({"result": "end", "script": name, "exit_code": code, "seconds": seconds}), flush=True)
    return code != 0


if __name__ == "__main__":
    raise SystemExit(main())

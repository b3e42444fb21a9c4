"""A real run of a recipe on real data, of as many epochs as the time carries, and its evaluation."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from reporting import Session

TRAINING_SHARE = 0.75
"""Of what is left after the first epoch; the rest is for decoding, the first batches of compiled code, and the evaluation."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--seconds", type=float, default=300, help="what the whole script may take")
    parser.add_argument("--data", required=True, help="a data set with a test split, as hat train takes it")
    parser.add_argument("--recipe", default="market1501-plus")
    parser.add_argument("--backbone-weights", default="none", help="a file of ImageNet weights: there is no network")
    arguments = parser.parse_args()
    session = Session(arguments.device, arguments.seconds, arguments.recipe)
    with tempfile.TemporaryDirectory() as folder:

        def train(name: str, epochs: int) -> tuple[Path, dict]:
            out = Path(folder) / name
            weights = ["--backbone-weights", arguments.backbone_weights]
            # Nothing is written before the end: a checkpoint with its state is gigabytes.
            quiet = [
                "--set",
                "checkpoint.every_epochs=0",
                "--set",
                "checkpoint.every_minutes=null",
                "--set",
                "eval.every_epochs=0",
            ]
            options = ["--out", str(out), "--epochs", str(epochs), "--device", arguments.device, *weights, *quiet]
            return out, hat("train", arguments.recipe, "--data", arguments.data, *options)

        _, first = train("first", 1)
        session.report("first_epoch", images_per_s=first["images_per_s"], seconds=first["seconds"])
        epochs = max(1, int(TRAINING_SHARE * session.left / first["seconds"]))
        run, trained = train("run", epochs)
        session.report("training", epochs=epochs, **{name: trained[name] for name in ("num_steps", "images_per_s", "seconds")})
        figures = hat("eval", str(run), "--data", arguments.data, "--device", arguments.device)["results"][0]
        session.report("evaluation", **{name: figures[name] for name in ("mAP", "rank1", "mINP", "images_per_s")})
    return 0


def hat(*arguments: str) -> dict:
    """Run a command of the package and return its report; what it says beside goes to the terminal."""
    done = subprocess.run([sys.executable, "-m", "hat", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main())

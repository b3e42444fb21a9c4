"""What the scripts of a session share: their arguments, their clock, and one JSON line a result."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))  # the tiny model and the fake of TensorRT are those of the tests


@dataclass
class Session:
    """A script's arguments and its time.

    Attributes:
        device: ``"cuda"``, or ``"cpu"`` for a rehearsal.
        seconds: What the whole script may take; it begins nothing that the rest does not carry.
        model: A preset, or ``"tiny"``.
    """

    device: str
    seconds: float
    model: str
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def report(self, name: str, **figures: object) -> None:
        """Print one result, at once: what was measured stays when the time is up."""
        line = {"result": name, "device": self.device, "model": self.model, "at_s": round(time.monotonic() - self.started, 1)}
        print(json.dumps(line | figures), flush=True)

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def timed(self, run, *, share: float = 0.1, least: int = 3) -> list[float]:
        """Return the seconds of each run, for a share of the session's time; two runs before are not counted."""
        for _ in range(2):
            run()
        self.synchronize()
        durations, begin = [], time.monotonic()
        while len(durations) < least or time.monotonic() - begin < self.seconds * share:
            start = time.perf_counter()
            run()
            self.synchronize()
            durations.append(time.perf_counter() - start)
        return durations

    def create_model(self):
        import hat

        if self.model == "tiny":
            from tiny_hat import lively_hat

            return lively_hat()
        return hat.create_model(self.model, num_classes=751).eval()

    def steps(self, names: list[str]) -> Iterator[str]:
        """Go through steps as long as there is time; those that were left out are reported."""
        for place, name in enumerate(names):
            if place and self.left <= 0:
                self.report("left_out", steps=names[place:], reason="the time is up")
                return
            yield name


def begin(description: str) -> Session:
    """Read the arguments of a script."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--seconds", type=float, default=90, help="what the whole script may take")
    parser.add_argument("--model", default="hat_resnet50", help="a preset, or tiny")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    session = Session(arguments.device, arguments.seconds, arguments.model)
    gpu = torch.cuda.get_device_name() if session.on_gpu else None
    session.report("begin", script=Path(sys.argv[0]).stem, gpu=gpu, torch=torch.__version__, cuda=torch.version.cuda)
    return session


def noise(model, batch: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 3, *model.config.image_size), dtype=np.uint8)

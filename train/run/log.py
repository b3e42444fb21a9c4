"""Log of a run: metrics, one JSON object a line in `metrics.jsonl`, for TensorBoard on request, and a bar on stderr."""

import contextlib
import datetime
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID
from typing_extensions import Self

from hat.console import percent, progress, stderr
from hat.errors import MissingExtraError
from hat.io.atomic_output import write_atomically, writing

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Writes down and shows how a run gets on, for as long as the context lasts.

    Every line of `metrics.jsonl` has ``kind`` ("train" or "eval"), ``epoch`` (counted from 1) and ``step`` (steps done in all).
    Lines later than the step at which a run is resumed, the one ``done``, are dropped, since the run will write them again. All
    processes but the first are ``silent``.
    """

    def __init__(
        self, folder: Path, num_epochs: int, num_steps: int, done: int, *, tensorboard: bool = False, silent: bool = False
    ) -> None:
        self.path = folder / METRICS_FILE
        self.num_epochs, self.num_steps, self.done, self.silent = num_epochs, num_steps, done, silent
        self._began, self._done_at_start = time.monotonic(), done
        self._contexts, self._task = contextlib.ExitStack(), TaskID(0)
        self._bar: Progress | None = None
        self._board = _open_tensorboard(folder / "tensorboard", done) if tensorboard and not silent else None
        if not silent:
            write_atomically(self.path, "".join(_lines_until(self.path, done) if done else []).encode())

    def __enter__(self) -> Self:
        if not self.silent:
            self._bar = self._contexts.enter_context(progress())
            self._task = self._bar.add_task("training", total=self.num_epochs * self.num_steps, completed=self.done, info="")
        return self

    def __exit__(self, *exception: Any) -> None:
        self._contexts.__exit__(*exception)
        if self._board is not None:
            self._board.close()

    def write(self, kind: str, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line."""
        if self.silent:
            return
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "epoch": epoch, "step": step, **metrics}) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def count_step(self, epoch: int) -> None:
        """Move the bar by a step of an epoch, counted from 0."""
        self.done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=f"epoch {epoch + 1}/{self.num_epochs}")

    def interval(self, epoch: int, metrics: Mapping[str, float], lr: float, images_per_s: float) -> None:
        """Write a line and show the means since the last one."""
        self.write("train", epoch + 1, self.done, {**metrics, "lr": lr, "images_per_s": round(images_per_s, 1)})
        if self._bar is not None:
            parts = " ".join(f"{name} {value:.3f}" for name, value in metrics.items() if name != "loss")
            info = f"loss {metrics.get('loss', 0):.3f} ({parts})  {images_per_s:.0f} images/s  lr {lr:.2e}"
            self._bar.update(self._task, info=info)

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Print a line for an epoch, where there is no terminal to draw a bar on as well."""
        if self.silent:
            return
        per_step = (time.monotonic() - self._began) / max(1, self.done - self._done_at_start)
        left = datetime.timedelta(seconds=round(per_step * (self.num_epochs * self.num_steps - self.done)))
        loss = metrics.get("loss", float("nan"))
        stderr.print(f"epoch {epoch + 1}/{self.num_epochs}: loss {loss:.4f}, {1 / per_step:.2f} steps/s, {left} left")

    def evaluated(self, epoch: int, metrics: Mapping[str, float], *, is_best: bool) -> None:
        """Write and print a line for an evaluation."""
        self.write("eval", epoch + 1, self.done, metrics)
        shown = ", ".join(f"{name} {percent(metrics[name])}" for name in ("mAP", "rank1", "mINP") if name in metrics)
        stderr.print(f"epoch {epoch + 1}: {shown}{' (best so far)' if is_best else ''}")


class RunningMeans:
    """Means of metrics since the last reset; their sums can be saved with the state of a run."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # name -> [sum, count]; a metric that a step lacks does not count for it

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count one more set of metrics."""
        for name, value in metrics.items():
            total, count = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = [total + value, count + 1]

    def means(self) -> dict[str, float]:
        """Means by name; empty where nothing was counted."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    def reset(self) -> None:
        """Reset the sums and counts."""
        self._sums = {}

    def state(self) -> dict[str, list[float]]:
        """Return sums and counts, as `restore` takes them."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def restore(self, state: Mapping[str, list[float]]) -> None:
        """Take up saved sums."""
        self._sums = {name: list(pair) for name, pair in state.items()}


def _lines_until(path: Path, step: int) -> list[str]:
    """Return whole lines of steps up to this one; a process killed while writing may have left half a line."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("step", step + 1) <= step:
            lines.append(line + "\n")
    return lines


def _open_tensorboard(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "train", "log.tensorboard") from None
    # TensorBoard itself hides what an interrupted run wrote after the step from which it is resumed.
    return SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

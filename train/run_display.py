"""What a user sees of a run: one bar with losses, rate, learning rate and the time that remains, and a line for each epoch."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from types import TracebackType

from rich.progress import Progress, TaskID

from hat.console import percent, progress, stderr

__all__ = ["RunDisplay"]


class RunDisplay:
    """Shows a run on stderr; silent in all processes but the first.

    Args:
        num_epochs: Length of the run.
        num_steps: Steps of an epoch.
        done: Steps done before, in a run that is resumed.
        silent: Show nothing.
    """

    def __init__(self, num_epochs: int, num_steps: int, done: int, *, silent: bool) -> None:
        self.num_epochs = num_epochs
        self.num_steps = num_steps
        self.done = done
        self.silent = silent
        self._began = time.monotonic()
        self._done_at_start = done
        self._context = progress()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> RunDisplay:
        if not self.silent:
            self._bar = self._context.__enter__()
            self._task = self._bar.add_task("training", total=self.num_epochs * self.num_steps, completed=self.done, info="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._context.__exit__(kind, error, traceback)

    def step(self, epoch: int, figures: Mapping[str, float] | None, lr: float, images_per_s: float) -> None:
        """Count a step.

        Args:
            epoch: The epoch, counted from 0.
            figures: Losses to show, or None to leave those shown before.
            lr: Learning rate.
            images_per_s: Images of all processes a second.
        """
        self.done += 1
        if self._bar is None:
            return
        if figures is not None:
            parts = " ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "loss")
            info = f"loss {figures.get('loss', 0):.3f} ({parts})  {images_per_s:.0f} images/s  lr {lr:.2e}"
            self._bar.update(self._task, info=info)
        self._bar.update(self._task, completed=self.done, description=f"epoch {epoch + 1}/{self.num_epochs}")

    def epoch_done(self, epoch: int, figures: Mapping[str, float]) -> None:
        """A line for an epoch, where there is no terminal to draw a bar on as well."""
        if self.silent:
            return
        per_step = (time.monotonic() - self._began) / max(1, self.done - self._done_at_start)
        left = datetime.timedelta(seconds=round(per_step * (self.num_epochs * self.num_steps - self.done)))
        loss = figures.get("loss", float("nan"))
        stderr.print(f"epoch {epoch + 1}/{self.num_epochs}: loss {loss:.4f}, {1 / per_step:.2f} steps/s, {left} left")

    def evaluated(self, epoch: int, figures: Mapping[str, float], *, is_best: bool) -> None:
        """A line for an evaluation."""
        if not self.silent:
            shown = ", ".join(f"{name} {percent(figures[name])}" for name in ("mAP", "rank1", "mINP") if name in figures)
            stderr.print(f"epoch {epoch + 1}: {shown}{' (best so far)' if is_best else ''}")

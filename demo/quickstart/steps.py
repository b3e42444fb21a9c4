"""The steps of ``hat quickstart``: each is a command of this package that could be typed on its own."""

import importlib.util
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DATA, _RUN, _ONNX, _ENGINE = "people", "run", "model.onnx", "model.engine"
_GALLERY, _PARITY, _SPEED = "people.gallery", "parity.json", "speed.json"

Summary = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        title: What it does, for somebody who has never heard of it.
        command: Arguments of ``hat``; paths are relative to the quickstart's folder.
        product: The file or folder that it leaves behind, relative to that folder.
        seconds: About how long it takes on two cores.
        summary: Makes one line for people of the JSON that the command prints.
        shows_progress: Whether the command draws a progress bar of its own.
        saves_output: Whether the JSON that it prints is the product.
        goes_on: Arguments with which the command goes on where a stopped one left off; None starts it over.
    """

    title: str
    command: tuple[str, ...]
    product: str
    seconds: int
    summary: Summary
    shows_progress: bool = True
    saves_output: bool = False
    goes_on: tuple[str, ...] | None = None

    @property
    def typed(self) -> str:
        """The command as a person would type it in the quickstart's folder."""
        redirected = f" --json > {self.product}" if self.saves_output else ""
        return shlex.join(["hat", *self.command]) + redirected


def quickstart_steps() -> list[Step]:
    """Return all steps in their order; the engine's is among them where TensorRT for RTX is installed."""
    steps = [
        Step(
            title="Draw people as four cameras see them",
            command=("synth", _DATA),
            product=_DATA,
            seconds=15,
            summary=lambda result: f"{result['num_images']:,} images of {result['num_ids']} people",
        ),
        Step(
            title="Train a small HAT on half of them",
            command=("train", "quick", "--data", _DATA, "--out", _RUN),
            product=_RUN,
            seconds=130,
            summary=lambda result: f"{result['num_steps']} steps, {result['images_per_s']:.0f} images/s",
            goes_on=("--resume",),
        ),
        Step(
            title="Export it, from pixels to embeddings",
            command=("export", _RUN, "--to", "onnx", "--out", _ONNX),
            product=_ONNX,
            seconds=10,
            summary=lambda result: f"{_megabytes(result)}, opset {result['artifact']['details']['opset']}",
            shows_progress=False,
        ),
        Step(
            title="Prove that the file ranks people as the model does",
            command=("verify", _RUN, _ONNX, "--images", f"{_DATA}/query", "--data", _DATA, "--report-json", _PARITY),
            product=_PARITY,
            seconds=25,
            summary=_parity,
        ),
        Step(
            title="Measure both",
            command=("bench", _RUN, _ONNX, "--batch", "1,8", "--seconds", "1", "--rounds", "2"),
            product=_SPEED,
            seconds=30,
            summary=lambda result: "figures are in the demo's report",
            saves_output=True,
        ),
        Step(
            title="Enroll the other half in a gallery",
            command=("enroll", _GALLERY, f"{_DATA}/bounding_box_test", "--model", _ONNX, "--thumbnails"),
            product=_GALLERY,
            seconds=15,
            summary=lambda result: f"{result['num_added']:,} images",
            goes_on=(),
        ),
    ]
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        engine = Step(
            title="Build an engine for RTX cards, which needs no such card here",
            command=("export", _RUN, "--to", "tensorrt-rtx", "--precision", "fp16", "--out", _ENGINE),
            product=_ENGINE,
            seconds=20,
            summary=lambda result: f"{_megabytes(result)}, {result['artifact']['device'] or 'any RTX card'}",
            shows_progress=False,
        )
        steps.insert(3, engine)
    return steps


def demo_command(folder: Path) -> list[str]:
    """Arguments of ``hat`` that open the demo on what the steps left in the folder."""
    model, onnx, gallery = folder / _RUN, folder / _ONNX, folder / _GALLERY
    return [
        *("demo", str(model), "--gallery", str(gallery), "--data", str(folder / _DATA), "--compare", str(onnx)),
        *("--report", str(folder / _PARITY), "--report", str(folder / _SPEED)),
    ]


def _parity(result: Mapping[str, Any]) -> str:
    candidate = result["candidates"][0]
    rates = candidate.get("figures", {}).get("retrieval")
    ranks = f", {100 * rates['mAP']:.1f} % mAP and {100 * rates['rank1']:.1f} % Rank-1 from the file" if rates else ""
    return f"all {len(candidate['checks'])} checks passed{ranks}"


def _megabytes(result: Mapping[str, Any]) -> str:
    return f"{sum(result['files'].values()) / 1e6:.1f} MB"

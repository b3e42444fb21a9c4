"""``hat quickstart``: from nothing to a searched gallery in a few minutes; its steps are commands that could be typed alone."""

import importlib.util
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hat.console import emit, stderr
from hat.errors import UsageError, WorkError
from hat.io.atomic_output import atomic_output

_MARKER = "QUICKSTART.txt"
_DONE = "quickstart.json"

_DATA, _RUN, _ONNX, _ENGINE = "people", "run", "model.onnx", "model.engine"
_GALLERY, _PARITY, _SPEED = "people.gallery", "parity.json", "speed.json"


@dataclass(frozen=True)
class Step:
    """One step."""

    title: str  # what it does, for somebody who has never heard of it
    seconds: int  # about how long it takes on two cores
    product: str  # the file or folder that it leaves behind, relative to the quickstart's folder
    command: str  # arguments of `hat`, as typed there
    summary: Callable[[Mapping[str, Any]], str]  # makes one line for people of the JSON that the command prints
    shows_progress: bool = True  # the command draws a progress bar of its own
    saves_output: bool = False  # the JSON that it prints is the product
    goes_on: tuple[str, ...] | None = None  # arguments to go on where a stopped one left off; None starts it over

    @property
    def typed(self) -> str:
        """The whole command as a person would type it in the quickstart's folder."""
        return f"hat {self.command}" + (f" --json > {self.product}" if self.saves_output else "")


def _megabytes(result: Mapping[str, Any]) -> str:
    return f"{sum(result['files'].values()) / 1e6:.1f} MB"


def _parity(result: Mapping[str, Any]) -> str:
    candidate = result["candidates"][0]
    rates = candidate.get("figures", {}).get("retrieval")
    ranks = f", {100 * rates['mAP']:.1f} % mAP and {100 * rates['rank1']:.1f} % Rank-1 from the file" if rates else ""
    return f"all {len(candidate['checks'])} checks passed{ranks}"


def quickstart_steps() -> list[Step]:
    """Return all steps in their order; the engine's is among them where TensorRT for RTX is installed."""
    engine = Step(
        "Build an engine for RTX cards, which needs no such card here",
        20,
        _ENGINE,
        f"export {_RUN} --to tensorrt-rtx --precision fp16 --out {_ENGINE}",
        lambda result: f"{_megabytes(result)}, {result['artifact']['device'] or 'any RTX card'}",
        shows_progress=False,
    )
    return [
        Step(
            "Draw people as four cameras see them",
            15,
            _DATA,
            f"synth {_DATA}",
            lambda result: f"{result['num_images']:,} images of {result['num_ids']} people",
        ),
        Step(
            "Train a small HAT on half of them",
            130,
            _RUN,
            f"train quick --data {_DATA} --out {_RUN}",
            lambda result: f"{result['num_steps']} steps, {result['images_per_s']:.0f} images/s",
            goes_on=("--resume",),
        ),
        Step(
            "Export it, from pixels to embeddings",
            10,
            _ONNX,
            f"export {_RUN} --to onnx --out {_ONNX}",
            lambda result: f"{_megabytes(result)}, opset {result['artifact']['details']['opset']}",
            shows_progress=False,
        ),
        *([engine] if importlib.util.find_spec("tensorrt_rtx") is not None else []),
        Step(
            "Prove that the file ranks people as the model does",
            25,
            _PARITY,
            f"verify {_RUN} {_ONNX} --images {_DATA}/query --data {_DATA} --report-json {_PARITY}",
            _parity,
        ),
        Step(
            "Measure both",
            30,
            _SPEED,
            f"bench {_RUN} {_ONNX} --batch 1,8 --seconds 1 --rounds 2",
            lambda result: "figures are in the demo's report",
            saves_output=True,
        ),
        Step(
            "Enroll the other half in a gallery",
            15,
            _GALLERY,
            f"enroll {_GALLERY} {_DATA}/bounding_box_test --model {_ONNX} --thumbnails",
            lambda result: f"{result['num_added']:,} images",
            goes_on=(),
        ),
    ]


def demo_command(folder: Path) -> list[str]:
    """Arguments of ``hat`` that open the demo on what the steps left in the folder."""
    named = [str(folder / name) for name in (_RUN, _GALLERY, _DATA, _ONNX, _PARITY, _SPEED)]
    options = ("--gallery", "--data", "--compare", "--report", "--report")
    return ["demo", named[0], *(part for pair in zip(options, named[1:], strict=True) for part in pair)]


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for all output.")] = Path("hat-quickstart"),
    once: Annotated[bool, typer.Option("--once", help="Stop before the demo is opened.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Delete what an earlier quickstart left there, and start over.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Go from nothing to a searched gallery, in a few minutes on two cores; no download, no GPU.

    Draws a small multi-camera data set, trains a small HAT on it, exports it, proves that the file ranks as the model does,
    enrolls a gallery and opens the demo. Everything is in one folder, to be looked at and deleted. A step that was done before
    is not done again.

    Examples:

      hat quickstart

      hat quickstart --once --out /tmp/first
    """
    _prepare(out, force)
    steps = quickstart_steps()
    done = _done_before(out)
    began = time.monotonic()
    for number, step in enumerate(steps, start=1):
        stderr.print(Text.assemble((f"{number}/{len(steps)}  {step.title}", "bold"), (f"  about {step.seconds} s", "dim")))
        stderr.print(f"     {step.typed}", style="dim", soft_wrap=True)
        if step.typed in done and (out / step.product).exists():
            stderr.print(f"     {done[step.typed]['result']}", Text(" done before", "dim"))
            continue
        done[step.typed] = _do(step, out)
        stderr.print(f"     {done[step.typed]['result']}", Text(f" {done[step.typed]['seconds']:.0f} s", "dim"))
        with atomic_output(out / _DONE, overwrite=True) as temporary:
            temporary.write_text(json.dumps(list(done.values()), indent=2) + "\n", encoding="utf-8")
    seconds = round(time.monotonic() - began, 1)
    command = demo_command(out)
    opens = shlex.join(["hat", *command])
    result = {"folder": str(out), "seconds": seconds, "steps": [done[step.typed] for step in steps], "demo": opens}
    stderr.print(f"done in {seconds:.0f} s; everything is in {out}", soft_wrap=True)
    if as_json or once:
        emit(result, Text(f"open the demo with:\n  {opens}", no_wrap=True, overflow="ignore"), as_json)
    if not once:
        stderr.print(f"opening the demo: {opens}", soft_wrap=True)
        raise typer.Exit(_run(command).returncode)


def _prepare(folder: Path, force: bool) -> None:
    """Make the folder; one that is there must be empty or an earlier quickstart's."""
    marker = folder / _MARKER
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name a folder with --out")
    if folder.is_dir() and any(folder.iterdir()) and not marker.is_file():
        raise UsageError(f"{folder} holds something else than a quickstart: name another folder with --out")
    try:
        if force and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text("Made by `hat quickstart`: generated people, a model trained on them, a gallery. Delete it freely.\n")
    except OSError as error:
        raise WorkError(f"{folder} cannot be written: {error.strerror or error}") from None


def _done_before(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what an earlier quickstart in this folder finished, by command."""
    try:
        content = json.loads((folder / _DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / _DONE} cannot be read: {error}; start over with --force") from None
    return {entry["command"]: entry for entry in content}


def _do(step: Step, folder: Path) -> dict[str, Any]:
    """Run a step's command in the folder. Its stderr is the user's where it draws a bar; else a spinner stands for it."""
    began = time.monotonic()
    product = folder / step.product
    arguments = [*shlex.split(step.command), "--json"]
    if product.exists():  # the step was stopped in the middle
        if step.goes_on is not None:
            arguments.extend(step.goes_on)
        elif product.is_dir():
            shutil.rmtree(product)
        else:
            product.unlink()
    if step.shows_progress and stderr.is_terminal:
        finished = _run(arguments, cwd=folder, stdout=subprocess.PIPE)
    else:
        with stderr.status(step.title):
            finished = _run(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if finished.returncode:
        raise WorkError(f"{shlex.join(['hat', *arguments])} in {folder} {_describe_end(finished)}")
    printed = json.loads(finished.stdout)
    if printed.get("stopped"):  # training that was asked to end writes its state, which is no failure
        raise WorkError(f"{shlex.join(['hat', *arguments])} in {folder} was stopped: {printed['stopped']}; start again")
    if step.saves_output:
        product.write_text(finished.stdout, encoding="utf-8")
    seconds, result = round(time.monotonic() - began, 1), step.summary(printed)
    return {"step": step.title, "command": step.typed, "seconds": seconds, "result": result}


def _run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of ``hat`` to its end; where this process is asked to end first, the command still writes its state."""
    process = subprocess.Popen(_hat(arguments), text=True, **options)
    try:
        printed, said = process.communicate()
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit):  # a terminal's Ctrl+C has reached the command too, what ends this process has not
            process.terminate()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, printed, said)


def _describe_end(finished: subprocess.CompletedProcess[str]) -> str:
    """Return how a command failed: the last line that it wrote, or the signal that ended it."""
    if finished.returncode == -signal.SIGKILL:
        return "was killed, as the system does where memory runs out: close other programs and start again"
    if finished.returncode < 0:
        return f"was ended by {signal.Signals(-finished.returncode).name}: start again"
    lines = (finished.stderr or "").strip().splitlines()
    return f"ended with {finished.returncode}: {lines[-1] if lines else 'see above'}"


def _hat(arguments: list[str]) -> list[str]:
    # The interpreter that runs this, not whatever `hat` the PATH would find.
    return [sys.executable, "-m", "hat", *arguments]

"""``hat quickstart``: from nothing to a searched gallery in a few minutes, without a download and without a GPU."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hat.console import emit, stderr
from hat.errors import UsageError, WorkError
from hat.io.atomic_output import atomic_output

from .steps import Step, demo_command, quickstart_steps

_MARKER = "QUICKSTART.txt"
_DONE = "quickstart.json"


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="The folder that everything is written to.")] = Path("hat-quickstart"),
    once: Annotated[bool, typer.Option("--once", help="Stop before the demo is opened.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Delete what an earlier quickstart left there, and start over.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """From nothing to a searched gallery, in a few minutes on two cores; no download, no GPU.

    Draws a small multi-camera data set, trains a small HAT on it, exports it, proves that the file ranks as the model does,
    enrolls a gallery and opens the demo. Everything is in one folder, to be looked at and deleted. A step that was done before
    is not done again.

    Examples:

      hat quickstart

      hat quickstart --once --out /tmp/first
    """
    folder = out.expanduser()
    _prepare(folder, force)
    steps = quickstart_steps()
    done = _done_before(folder)
    began = time.monotonic()
    for number, step in enumerate(steps, start=1):
        stderr.print(f"[bold]{number}/{len(steps)}  {step.title}[/bold]  [dim]about {step.seconds} s[/dim]")
        stderr.print(f"     {step.typed}", style="dim", markup=False, soft_wrap=True)
        if step.typed in done and (folder / step.product).exists():
            stderr.print(f"     {done[step.typed]['result']}  [dim]done before[/dim]")
            continue
        done[step.typed] = _do(step, folder)
        stderr.print(f"     {done[step.typed]['result']}  [dim]{done[step.typed]['seconds']:.0f} s[/dim]")
        _write(folder, done)
    seconds = round(time.monotonic() - began, 1)
    command = demo_command(folder)
    result = {
        "folder": str(folder),
        "seconds": seconds,
        "steps": [done[step.typed] for step in steps],
        "demo": shlex.join(["hat", *command]),
    }
    stderr.print(f"done in {seconds:.0f} s; everything is in {folder}", markup=False, soft_wrap=True)
    if as_json or once:
        emit(result, Text(f"open the demo with:\n  {result['demo']}", no_wrap=True, overflow="ignore"), as_json)
    if not once:
        stderr.print(f"opening the demo: {result['demo']}", markup=False, soft_wrap=True)
        raise typer.Exit(subprocess.run(_hat(command), check=False).returncode)


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
    return {fact["command"]: fact for fact in content}


def _write(folder: Path, done: dict[str, dict[str, Any]]) -> None:
    with atomic_output(folder / _DONE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(list(done.values()), indent=2) + "\n", encoding="utf-8")


def _do(step: Step, folder: Path) -> dict[str, Any]:
    """Run a step's command in the folder."""
    began = time.monotonic()
    product = folder / step.product
    command = [*step.command, "--json"]
    if product.exists():  # the step was stopped in the middle
        if step.goes_on is not None:
            command.extend(step.goes_on)
        elif product.is_dir():
            shutil.rmtree(product)
        else:
            product.unlink()
    printed = _run(command, folder, shows_progress=step.shows_progress, title=step.title)
    if step.saves_output:
        product.write_text(printed, encoding="utf-8")
    return {
        "step": step.title,
        "command": step.typed,
        "seconds": round(time.monotonic() - began, 1),
        "result": step.summary(json.loads(printed)),
    }


def _run(arguments: list[str], folder: Path, *, shows_progress: bool, title: str) -> str:
    """Return what the command printed on stdout. Its stderr is the user's where it draws a bar; else a spinner stands for it.

    Raises:
        WorkError: It failed.
    """
    command = _hat(arguments)
    if shows_progress and stderr.is_terminal:
        finished = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    else:
        with stderr.status(title):
            finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise WorkError(f"{shlex.join(['hat', *arguments])} in {folder} {_describe_end(finished)}")
    return finished.stdout


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

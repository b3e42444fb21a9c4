"""The command ``hat``: a table of subcommands, each loaded only when it is called.

``hat --help`` reads this table alone and imports neither torch nor any subcommand, so it answers at once. A subcommand is a
function with typer's annotations; its docstring is its help.
"""

import functools
import os
import pkgutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from hat.errors import HatError, UsageError, describe_failure
from hat.process_settings import keep_freed_memory, wait_passively

COMMANDS: dict[str, tuple[str, str]] = {
    "info": ("hat.commands.info:info", "Describe a model, checkpoint or exported file."),
    "doctor": ("hat.commands.doctor:doctor", "Check the installation and report problems."),
    "synth": ("hat.commands.synth:synth", "Generate a multi-camera data set of synthetic pedestrians."),
    "train": ("hat.train.command:train", "Train a model on one or more data sets."),
    "eval": ("hat.commands.evaluation:evaluate", "Evaluate a model on one or more data sets (mAP, CMC, mINP)."),
    "convert": ("hat.commands.convert:convert", "Convert a .pth file of HAT's released code to a checkpoint."),
    "export": ("hat.export.command:export", "Export a model to ONNX, TensorRT, OpenVINO, Triton or DeepStream."),
    "adopt": ("hat.export.foreign.command:adopt", "Wrap a third-party ONNX or OpenVINO model."),
    "verify": ("hat.export.parity.command:verify", "Check that exported files match the reference model."),
    "bench": ("hat.export.bench.command:bench", "Benchmark models and exported files."),
    "embed": ("hat.serve.commands.embed:embed", "Write image embeddings to a file."),
    "enroll": ("hat.serve.commands.enroll:enroll", "Add images, folders or video frames to a gallery."),
    "search": ("hat.serve.commands.search:search", "Rank a gallery by similarity to one or more images."),
    "gallery": ("hat.serve.commands.gallery:gallery", "Inspect and manage a gallery."),
    "serve": ("hat.serve.commands.serve:serve", "Serve embedding and search over HTTP."),
    "keys": ("hat.serve.commands.serve:keys_app", "Create, list and remove API keys."),
    "demo": ("hat.demo.command:demo", "Search, compare and look inside a model in the browser."),
    "quickstart": ("hat.demo.quickstart:quickstart", "Run the whole workflow on synthetic data."),
}
"""Name -> ("module:function", one line of help), in the order of the help page; a group's function is its `typer.Typer`."""

_LONG_COMPUTATIONS = ("train", "eval", "quickstart")
"""Commands that keep all cores busy for minutes and longer."""

NEEDS_NO_ARGUMENTS = ("demo", "doctor", "quickstart")
"""Commands that do something useful when they are called bare; every other one shows its help."""


def _expanding_home(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that expands ``~`` in its paths, which a shell leaves as it is in ``--out=~/x``."""

    @functools.wraps(function)
    def call(**arguments: Any) -> Any:
        return function(**{name: _at_home(value) for name, value in arguments.items()})

    return call


def _at_home(value: Any) -> Any:
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value  # noqa: PTH111 - Path's raises without a home


def load_command(name: str) -> Any:
    """Import a subcommand and make typer's command of it."""
    if name in _LONG_COMPUTATIONS:
        wait_passively()
        keep_freed_memory()
    target = group = pkgutil.resolve_name(COMMANDS[name][0])
    if not isinstance(target, typer.Typer):  # a command with subcommands of its own brings its table ready made
        group = typer.Typer(add_completion=False, rich_markup_mode="rich")
        group.command(name, no_args_is_help=name not in NEEDS_NO_ARGUMENTS)(_expanding_home(target))
    else:
        for subcommand in group.registered_commands:
            if subcommand.callback is not None and not hasattr(subcommand.callback, "__wrapped__"):
                subcommand.callback = _expanding_home(subcommand.callback)
    command = typer.main.get_command(group)
    command.name = name
    return command


class LazyGroup(TyperGroup):
    """A group that knows its subcommands by name and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return names in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the subcommand; while a help page or a completion is made, its one line of help without importing it."""
        if cmd_name not in COMMANDS:
            return None
        if getattr(ctx, "resilient_parsing", False) or not getattr(ctx, "_resolving", False):
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])
        return load_command(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the subcommand that was called, and import it."""
        ctx._resolving = True
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="hat",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Person re-identification with HAT: train, evaluate, export, verify and serve.",
    epilog="Each command has examples in its own help: hat train --help",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed_version

        sys.stdout.write(f"hat-reid {installed_version('hat-reid')}\n")
        raise typer.Exit


def main() -> None:
    """Run the command line; whatever goes wrong becomes one sentence on stderr and an exit code, never a traceback.

    With ``HAT_DEBUG=1`` in the environment an error that is not ours is raised with its traceback.
    """
    _open_missing_streams()
    before = None
    try:
        with suppress(ValueError):  # in a thread, where a program of its own calls this
            # Ends as Ctrl+C does, through every `finally`: no temporary folder and no process of ours is left.
            before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a full disk behind a redirection can still be reported
    except HatError as error:
        label = "usage" if isinstance(error, UsageError) else "failed"
        sys.stderr.write(f"hat: {label}: {error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _abandon_stdout()
        sys.exit(1)
    except Exception as error:
        if os.environ.get("HAT_DEBUG") == "1":
            raise
        _abandon_stdout()
        sys.stderr.write(f"hat: failed: {describe_failure(error)}\n")
        sys.exit(1)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)  # a program that calls this goes on with its own


def _open_missing_streams() -> None:
    """Open what goes nowhere for standard streams that the process was started without (``>&-``, some daemons).

    Otherwise the next file that is opened, a gallery say, would take the number of one, and get what libraries print there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - as long as the process


def _abandon_stdout() -> None:
    """Let the interpreter's own last flush go nowhere, or it would complain again and change the exit code."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file here, or closed
        return

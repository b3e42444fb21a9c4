"""The paper's ablations (Tables 2 to 5) under one shortened schedule: a training and an evaluation for each row, then a table.

    python benchmarks/ablations.py --data ~/data --out runs/ablations --backbone-weights torchvision --record ablations.md

The work may be interrupted at any time, and with --stop-after-s it ends by itself; the same command goes on where it stopped
and ends in the same weights. Rows are chosen by --rows; --list names all of them. Published figures are those of 150 epochs, so
that only the order of rows may be compared with them.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from measuring import one_sentence_errors

from hat.console import append_record, markdown_table, percent
from hat.io.atomic_output import write_atomically
from hat.io.checkpoint import read_checkpoint_info
from hat.model.complexity import count_complexity

BASE = "base"
ROWS: dict[str, tuple[str, str, list[str]]] = {
    BASE: ("", "as the recipe has it", []),
    "baseline": ("2", "baseline, the MFE alone", ["model.depths=[0,0,0,0]"]),
    "depths-12-0-0-0": ("2", "depths {12,0,0,0}", ["model.depths=[12,0,0,0]"]),
    "depths-0-12-0-0": ("2", "depths {0,12,0,0}", ["model.depths=[0,12,0,0]"]),
    "depths-0-0-12-0": ("2", "depths {0,0,12,0}", ["model.depths=[0,0,12,0]"]),
    "depths-0-0-0-12": ("2", "depths {0,0,0,12}", ["model.depths=[0,0,0,12]"]),
    "depths-3-3-3-3": ("2", "depths {3,3,3,3}", ["model.depths=[3,3,3,3]"]),
    "depths-0-4-4-4": ("2", "depths {0,4,4,4}", ["model.depths=[0,4,4,4]"]),
    "depths-4-4-4-0": ("2", "depths {4,4,4,0}", ["model.depths=[4,4,4,0]"]),
    "depths-3-4-5-0": ("2", "depths {3,4,5,0}", ["model.depths=[3,4,5,0]"]),
    "depths-0-0-6-0": ("2", "depths {0,0,6,0}", ["model.depths=[0,0,6,0]"]),
    "depths-0-0-4-0": ("2", "depths {0,0,4,0}, one level of an edge model", ["model.depths=[0,0,4,0]"]),
    "no-mfe-supervision": ("3", "without MFE supervision", ["model.mfe_supervision=false"]),
    "no-auxiliary-loss": ("3", "without the auxiliary loss", ["model.auxiliary_loss=false"]),
    "no-nea": ("3", "without NeA", ["model.nea=false"]),
    "d-8": ("4", "levels scaled to 1/8", ["model.downscale=8"]),
    "d-32": ("4", "levels scaled to 1/32", ["model.downscale=32"]),
    **{
        f"lambda-{weight}": ("5", f"lambda {weight}", [f"loss.auxiliary_weight={weight}"])
        for weight in ("0.0", "0.1", "0.3", "0.8", "1.0")
    },
    "norm-before": ("", "layer norm before the sub-layers, as released", ["model.transformer.norm_order=pre"]),
}
"""Name -> (table of the paper, description, what is set). The base has depths {3,3,6,0} and lambda 0.5."""

DEFAULT_ROWS = [name for name in ROWS if not name.startswith("depths") or name in ("depths-0-0-12-0", "depths-4-4-4-0")]
MILESTONES, WARM_UP, LENGTH = (50, 70, 90, 110, 130), 10, 150


class Clock:
    """The time that is left, and the signal to end: it is passed on to the command that is running."""

    def __init__(self, stop_after_s: float | None) -> None:
        self.end = None if stop_after_s is None else time.monotonic() + stop_after_s
        self.asked = False
        self.child: subprocess.Popen[str] | None = None
        signal.signal(signal.SIGTERM, self._ask)

    @property
    def left_s(self) -> float | None:
        return None if self.end is None else self.end - time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.asked or (self.left_s is not None and self.left_s <= 0)

    def run(self, command: Sequence[str]) -> dict[str, Any] | None:
        """Run a command of hat that prints JSON, what it says on stderr passed on; None where it was ended before its end."""
        self.child = subprocess.Popen([sys.executable, "-m", "hat", *command], stdout=subprocess.PIPE, text=True)
        output, _ = self.child.communicate()
        code, self.child = self.child.returncode, None
        if code and not self.asked:
            sys.exit(f"hat {' '.join(command)} ended with exit code {code}")
        found: dict[str, Any] = {} if code else json.loads(output)
        return None if code or found.get("stopped") is not None else found

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self.child is not None:
            self.child.terminate()


def schedule(epochs: int) -> list[str]:
    """The paper's schedule, shortened in all its parts alike."""
    part = epochs / LENGTH
    milestones = ",".join(f"{milestone * part:g}" for milestone in MILESTONES)
    return [f"num_epochs={epochs}", f"schedule.warmup_epochs={WARM_UP * part:g}", f"schedule.milestones=[{milestones}]"]


def row_settings(name: str, options: argparse.Namespace) -> list[str]:
    """All that decides a row's weights but the data."""
    chosen = [f"preset={options.preset}", f"model={options.model}", f"backbone_weights={options.backbone_weights}"]
    return [*chosen, *schedule(options.epochs), f"seed={options.seed}", *options.set, *ROWS[name][2]]


def train_command(name: str, options: argparse.Namespace, left_s: float | None) -> list[str]:
    folder = options.out / name
    settings = row_settings(name, options)[3:]
    command = ["train", options.preset, "--data", options.data, "--out", str(folder), "--device", options.device, "--json"]
    command += ["--backbone-weights", options.backbone_weights]
    command += ["--model", options.model] if options.model else []
    command += [part for setting in settings for part in ("--set", setting)]
    command += ["--stop-after-s", f"{max(1.0, left_s):.0f}"] if left_s is not None else []
    return [*command, "--resume"] if (folder / "config.yaml").is_file() else command


def finish_row(name: str, options: argparse.Namespace, clock: Clock, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Train and evaluate a row, or as much of it as there is time for; its figures when it is done."""
    folder: Path = options.out / name
    result, settings = folder / "ablation.json", row_settings(name, options)
    if result.is_file():
        found: dict[str, Any] = json.loads(result.read_text())
        if found.get("settings") != settings:
            sys.exit(f"{folder} was made with other settings: {found.get('settings')}; got {settings}. Choose another --out")
        return found
    if clock.is_over:
        return None
    say(f"{name}: training")
    if clock.run(train_command(name, options, clock.left_s)) is None or clock.is_over:
        return None
    say(f"{name}: evaluating")
    command = ["eval", str(folder), "--data", options.data, "--device", options.device, "--batch-size", "64", "--json"]
    evaluated = clock.run(command)
    if evaluated is None:
        return None
    complexity = count_complexity(read_checkpoint_info(folder).model)
    figures = {
        "settings": settings,
        **{key: evaluated["results"][0][key] for key in ("mAP", "rank1", "mINP")},
        "num_params": complexity.total_params,
        "num_operations": complexity.total_operations,
    }
    write_atomically(result, json.dumps(figures).encode())
    return figures


def table_rows(figures: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    base = figures.get(BASE)
    return [
        {
            "table": ROWS[name][0],
            "row": ROWS[name][1],
            "M parameters": f"{found['num_params'] / 1e6:.1f}",
            "GFLOP": f"{found['num_operations'] / 1e9:.2f}",
            "mAP": percent(found["mAP"]),
            "change": "" if base is None or name == BASE else f"{100 * (found['mAP'] - base['mAP']):+.2f}",
            "Rank-1": percent(found["rank1"]),
            "mINP": percent(found["mINP"]),
        }
        for name, found in figures.items()
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a data set: DIR or NAME=DIR")
    parser.add_argument("--out", type=Path, help="folder of all runs")
    parser.add_argument("--backbone-weights", help="as hat train takes them: torchvision, timm, a file, or none")
    parser.add_argument("--preset", default="market1501", help="recipe that rows change (default %(default)s)")
    parser.add_argument("--model", help="another model than the recipe's")
    parser.add_argument("--epochs", type=int, default=60, help="length of the shortened schedule (default %(default)s)")
    parser.add_argument("--set", action="append", default=[], help="a change to all rows: compute.precision=bf16")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=DEFAULT_ROWS, metavar="ROW", help="which rows")
    parser.add_argument("--list", action="store_true", help="name all rows and stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--stop-after-s", type=float, help="end after so many seconds; the same command goes on")
    parser.add_argument("--record", type=Path, help="append the table to this Markdown file when all rows are there")
    options = parser.parse_args()
    if options.list:
        for name, (number, description, _) in ROWS.items():
            table, when = f"Table {number}" if number else "", "" if name in DEFAULT_ROWS else " (by --rows)"
            print(f"{name:<20} {table:<8} {description}{when}")
        sys.exit()
    missing = [f"--{name.replace('_', '-')}" for name in ("data", "out", "backbone_weights") if getattr(options, name) is None]
    if missing:
        parser.error(f"needed: {', '.join(missing)}")
    return options


@one_sentence_errors()
def main() -> None:
    options = parse_arguments()
    clock, began = Clock(options.stop_after_s), time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, Any]] = {}
    for name in options.rows:
        found = finish_row(name, options, clock, lambda text: print(text, file=sys.stderr))
        if found is not None:
            figures[name] = found
    if figures:
        print(markdown_table(table_rows(figures)), end="")
    left = len(options.rows) - len(figures)
    if left:
        print(f"{left} of {len(options.rows)} rows are still to be done by the same command", file=sys.stderr)
    elif options.record is not None:
        title = f"Ablations, {options.epochs} epochs, seed {options.seed}"
        append_record(options.record, title, table_rows(figures), time.monotonic() - began)


if __name__ == "__main__":
    main()

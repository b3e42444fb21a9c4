"""``hat bench``: how fast models and exported files are, side by side."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.console import emit, percent, progress, stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from .report import BenchmarkReport, CandidateSpeed, Speed


def bench(
    candidates: Annotated[list[str], typer.Argument(help="Checkpoints and files; the first is what others are compared with.")],
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8,32",
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help="Count reading, decoding and resizing files too.")] = False,
    images: Annotated[Path | None, typer.Option("--images", help="A folder or zip file of images.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Measure accuracy on a data set: DIR, or NAME=DIR.")] = None,
    num_ids: Annotated[int | None, typer.Option(min=2, help="Rank so many identities of the data set only.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU; each runtime chooses where unset.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    picture: Annotated[Path | None, typer.Option(help="Draw accuracy against speed: .png, .svg or .pdf.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a picture that is there.")] = False,
    record: Annotated[Path | None, typer.Option(help="Append the figures to this Markdown file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how fast models and exported files are: images a second, latency, memory, and utilization of the machine.

    Each candidate lives in a process of its own and has its turn in every round, so that what slows the machine slows all of
    them alike. Ratios are taken within rounds and are the figures to trust. The peak is that of a large matrix product in the
    candidate's precision, timed in the same rounds. Memory is the peak of the process, the libraries included.

    A checkpoint may be followed by variants: runs/market@graph (the exact inference graph), @compile, @bf16, @fp16.

    Examples:

      hat bench runs/market runs/market@graph hat.onnx hat-int8.xml --batch 1,8,32

      hat bench runs/market@graph+compile hat.onnx --images ~/crops --end-to-end --json

      hat bench runs/market hat.onnx hat-int8.xml --data ~/data --picture speed.png
    """
    from hat.errors import UsageError
    from hat.io.plot_file import check_plot_path
    from hat.record import append_record

    from .benchmark import benchmark
    from .picture import draw_picture

    start = time.monotonic()
    try:
        batches = [int(size) for size in batch.split(",")]
    except ValueError:
        raise UsageError(f"--batch takes whole numbers separated by commas, such as 1,8,32; got {batch!r}") from None
    if num_ids is not None and data is None:
        raise UsageError("--num-ids chooses identities of a data set: give one with --data")
    if picture is not None:
        check_plot_path(picture, "drawing accuracy against speed", overwrite=force)

    def check(facts: Sequence[dict[str, Any]]) -> None:
        if picture is not None and data is None and not any("mAP" in fact["metrics"] for fact in facts):
            raise UsageError("no candidate's accuracy is known, so there is none to draw: name a data set with --data")

    with progress() as display:
        task = display.add_task("opening", total=None, info="")
        report = benchmark(
            candidates,
            batches=batches,
            end_to_end=end_to_end,
            images=images,
            data=data,
            num_ids=num_ids,
            seconds=seconds,
            rounds=rounds,
            num_threads=threads,
            device=device,
            check=check,
            tell=lambda what, done, total: display.update(task, description=what, completed=done, total=total),
        )
    if picture is not None:
        missing = draw_picture(report, picture, overwrite=force)
        stderr.print(f"drawn: {picture}", markup=False)
        if missing:
            stderr.print(f"not in the picture, their accuracy is not known: {', '.join(missing)}", markup=False)
    if report.is_busy:
        stderr.print(f"others were at work on this machine (load {report.load:.1f}): rely on the ratios alone", markup=False)
    rows = [_row(entry, speed) for entry in report.candidates for speed in entry.speeds]
    if record is not None:
        append_record(record, f"Speed of {len(report.candidates)} candidates", rows, time.monotonic() - start)
    emit(report.to_dict(), _table(report, rows), as_json)


def _row(entry: CandidateSpeed, speed: Speed) -> dict[str, str]:
    share = "-" if speed.utilization is None else f"{100 * speed.utilization:.0f} %"
    memory = f"{entry.peak_bytes / 2**20:,.0f}"
    if entry.device_bytes:
        memory += f" + {entry.device_bytes / 2**20:,.0f} GPU"
    return {
        "candidate": entry.name,
        "runtime": entry.runtime,
        "from": "pixels" if speed.mode == "embedding" else "files",
        "batch": str(speed.batch),
        "images/s": f"{speed.images_per_s:,.1f}",
        "ratio": f"{speed.ratio:.2f}",
        "p50 ms": f"{1000 * speed.p50_s:,.1f}",
        "p95 ms": f"{1000 * speed.p95_s:,.1f}",
        "p99 ms": f"{1000 * speed.p99_s:,.1f}",
        "utilization": share,
        "MiB": memory,
        "mAP": percent(entry.accuracy["mAP"]) if "mAP" in entry.accuracy else "-",
    }


def _table(report: BenchmarkReport, rows: list[dict[str, str]]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("candidate", "runtime", "from") else "right", overflow="fold")
    for number, row in enumerate(rows):
        ends = number + 1 < len(rows) and rows[number + 1]["candidate"] != row["candidate"]
        table.add_row(*(Text(cell) for cell in row.values()), end_section=ends)
    peaks = [
        f"{precision} {rate / 1e9:,.0f} on {kind}" for kind, rates in report.peaks.items() for precision, rate in rates.items()
    ]
    settings = report.settings
    foot = [
        f"medians of {settings['rounds']} rounds of {settings['seconds']:g} s; ratio to {report.candidates[0].name}",
        f"matrix products, GFLOP/s: {', '.join(peaks)}",
        report.machine,
    ]
    return Group(table, "", *(Text(line, "dim") for line in foot))

"""``hat bench``: benchmark models and exported files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hat.commands.options import AsJson, Device, Force, GrayBits, NumIds, Record, finite
from hat.console import append_record, check_record, emit, make_table, percent, progress, stderr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import RenderableType

    from .benchmark import BenchmarkReport, CandidateSpeed, Speed

_COLORS = {"fp32": "#2f5fd0", "fp16": "#8a4fc9", "bf16": "#0d8f8a", "int8": "#d2691e", "fp8": "#b8336a"}
_MARKERS = {"torch": "o", "onnxruntime": "s", "openvino": "^", "tensorrt": "D"}


def bench(
    candidates: Annotated[list[str], typer.Argument(help="Checkpoints and files; the first is the baseline.")],
    batch: Annotated[str, typer.Option(help="Comma-separated batch sizes.")] = "1,8,32",
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help="Include reading, decoding and resizing of files.")] = False,
    images: Annotated[Path | None, typer.Option("--images", help="Folder or zip file of images.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Data set to measure accuracy on: DIR or NAME=DIR.")] = None,
    num_ids: NumIds = None,
    seconds: Annotated[float, typer.Option(callback=finite, help="Seconds per candidate, batch size and round.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; each runtime's default if unset.")] = None,
    device: Device = "auto",
    gray_bits: GrayBits = None,
    picture: Annotated[Path | None, typer.Option(help="Plot accuracy against throughput: .png, .svg or .pdf.")] = None,
    force: Force = False,
    record: Record = None,
    as_json: AsJson = False,
) -> None:
    """Benchmark models and exported files: images/s, latency, memory and utilization.

    Each candidate runs in its own process and takes a turn in every round, so that other load affects all alike. Ratios are
    computed within rounds and are the most reliable numbers. Utilization is relative to a large matrix product in the
    candidate's precision, timed in the same rounds. Memory is the peak of the process, including libraries.

    A checkpoint can have variant suffixes: runs/market@graph (the exact inference graph), @compile, @bf16, @fp16.

    Examples:

      hat bench runs/market runs/market@graph hat.onnx hat-int8.xml --batch 1,8,32

      hat bench runs/market@graph+compile hat.onnx --images ~/crops --end-to-end --json

      hat bench runs/market hat.onnx hat-int8.xml --data ~/data --picture speed.png
    """
    from hat.errors import UsageError
    from hat.io.plot_file import check_plot_path

    from .benchmark import benchmark

    start = time.monotonic()
    check_record(record)
    try:
        batches = [int(size) for size in batch.split(",")]
    except ValueError:
        raise UsageError(f"--batch takes whole numbers separated by commas, such as 1,8,32; got {batch!r}") from None
    if num_ids is not None and data is None:
        raise UsageError("--num-ids chooses identities of a data set: give one with --data")
    check_plot_path(picture, "drawing accuracy against speed", overwrite=force)
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
            gray_bits=gray_bits,
            need_accuracy=picture is not None,
            progress=lambda what, done, total: display.update(task, description=what, completed=done, total=total),
        )
    if picture is not None:
        missing = draw_picture(report, picture, overwrite=force)
        stderr.print(f"drawn: {picture}")
        if missing:
            stderr.print(f"not in the picture, their accuracy is not known: {', '.join(missing)}")
    if report.is_busy:
        stderr.print(f"others kept {report.other_cores:.1f} cores busy meanwhile: rely on the ratios alone")
    rows = [_row(entry, speed) for entry in report.candidates for speed in entry.speeds]
    if record is not None:
        append_record(record, f"Speed of {len(report.candidates)} candidates", rows, time.monotonic() - start)
    emit(report.to_dict(), _table(report, rows), as_json)


def _row(entry: CandidateSpeed, speed: Speed) -> dict[str, str]:
    gpu = f" + {entry.device_bytes / 2**20:,.0f} GPU" if entry.device_bytes else ""
    return {
        "candidate": entry.name,
        "runtime": entry.runtime,
        "from": "pixels" if speed.mode == "embedding" else "files",
        "batch": str(speed.batch),
        "images/s": f"{speed.images_per_s:,.1f}",
        "ratio": f"{speed.ratio:.2f}",
        **{f"{name} ms": f"{1000 * getattr(speed, f'{name}_s'):,.1f}" for name in ("p50", "p95", "p99")},
        "utilization": "-" if speed.utilization is None else f"{100 * speed.utilization:.0f} %",
        "MiB": f"{entry.peak_bytes / 2**20:,.0f}{gpu}",
        "mAP": percent(entry.accuracy["mAP"]) if "mAP" in entry.accuracy else "-",
    }


def _table(report: BenchmarkReport, rows: list[dict[str, str]]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    table = make_table([list(row.values()) for row in rows], list(rows[0]), left=("candidate", "runtime", "from"))
    settings = report.settings
    peaks = [(kind, name, rate) for kind, rates in report.peaks.items() for name, rate in rates.items()]
    foot = [
        f"medians of {settings['rounds']} rounds of {settings['seconds']:g} s; ratio to {report.candidates[0].name}",
        f"matrix products, GFLOP/s: {', '.join(f'{name} {rate / 1e9:,.0f} on {kind}' for kind, name, rate in peaks)}",
        report.machine,
    ]
    return Group(table, "", *(Text(line, "dim") for line in foot))


def draw_picture(report: BenchmarkReport, path: Path, *, overwrite: bool = False) -> list[str]:
    """Draw mAP over images in a second, one point for each candidate whose mAP is known: one wants to be in the upper right.

    The batch size is the one at which the first candidate is fastest. Return the names of those that are not in the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    from hat.errors import UsageError
    from hat.io.plot_file import save_picture, style_axes

    known = [entry for entry in report.candidates if "mAP" in entry.accuracy]
    if not known:
        raise UsageError("no candidate's accuracy is known: name a data set with --data")
    embedding = [speed for speed in report.candidates[0].speeds if speed.mode == "embedding"]
    batch = max(embedding, key=lambda speed: speed.images_per_s).batch
    figure = Figure(figsize=(10, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, entry in enumerate(known, start=1):
        _draw_point(axes, entry, entry.at(batch), number)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8, labelspacing=1.1)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.15)
    slowest, fastest = axes.get_xlim()
    is_narrow = fastest < 4 * slowest  # few round numbers of the logarithmic scale would lie in it, or one alone
    axes.xaxis.set_major_locator(MaxNLocator(6) if is_narrow else LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set(xlabel=f"images in a second, batch {batch}", ylabel="mAP, %")
    axes.set_title(f"Accuracy against speed ({report.machine})", fontsize=10, loc="left")
    style_axes(axes)
    save_picture(figure, path, overwrite=overwrite)
    return [entry.name for entry in report.candidates if entry not in known]


def _draw_point(axes: Axes, entry: CandidateSpeed, speed: Speed, number: int) -> None:
    """Draw one candidate with the range of its rounds, by number.

    Files of one model often have one accuracy: names beside the points would lie on one another, so the legend holds them.
    """
    point = (speed.images_per_s, 100 * entry.accuracy["mAP"])
    color = _COLORS.get(entry.precision, "#444444")
    shape = next((shape for name, shape in _MARKERS.items() if entry.runtime.startswith(name)), "o")
    below, above = speed.images_per_s - min(speed.rounds), max(speed.rounds) - speed.images_per_s
    figures = f"{speed.images_per_s:.1f} images/s ({speed.ratio:.2f} x), mAP {point[1]:.2f} %"
    name = f"{number}  {Path(entry.name).name}: {entry.runtime}\n    {figures}"
    axes.errorbar(*point, xerr=[[below], [above]], color=color, capsize=3, linewidth=1)
    axes.plot(*point, marker=shape, markersize=9, color=color, linestyle="none", label=name)
    axes.annotate(str(number), point, xytext=(0, 8), textcoords="offset points", ha="center", fontsize=9, color=color)

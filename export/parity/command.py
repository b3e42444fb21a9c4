"""``hat verify``: check that exported files match the reference model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.commands.options import AsJson, Device, Force, GrayBits, NumIds
from hat.console import emit, progress

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .verification_report import VerificationReport


def verify(
    reference: Annotated[str, typer.Argument(help="Reference, usually a checkpoint.")],
    candidates: Annotated[list[str], typer.Argument(help="Files to compare with it.")],
    images: Annotated[Path, typer.Option("--images", help="Folder or zip file of images to compare on.")],
    data: Annotated[str | None, typer.Option("--data", help="Data set for mAP, Rank-1 and mINP: DIR or NAME=DIR.")] = None,
    num_images: Annotated[int, typer.Option(min=4, help="Number of images to compare, selected by the seed.")] = 256,
    num_ids: NumIds = None,
    seed: Annotated[int, typer.Option(help="Seed of the selection.")] = 0,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size on the data set.")] = 32,
    gray_bits: GrayBits = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report; it shows the images.")] = None,
    report_json: Annotated[Path | None, typer.Option(help="Write the results as JSON, without images.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Check that exported files match the reference model.

    Three levels: embeddings (worst cosine, largest difference of a value, largest shift in units of the distance between two
    images, and the same image in batches of 1, opt, max and max + 1), ranking (nearest, ten nearest, rank correlation) and,
    with --data, retrieval (change of mAP, Rank-1 and mINP). Limits depend on the precision. The exit code is 1 if a limit is
    exceeded, if files cannot be compared, or if nothing was compared.

    A checkpoint can have a variant suffix: runs/market@graph (the exact inference graph), @compile, @bf16, @fp16.

    Examples:

      hat verify runs/market hat.onnx hat-int8.xml --images ~/crops

      hat verify runs/market hat-fp16.onnx --images ~/crops --data market1501=~/data --num-ids 100

      hat verify runs/market hat.onnx --images ~/crops --report report.html --report-json report.json
    """
    from hat.data import open_dataset
    from hat.data.images import set_gray_bits
    from hat.errors import UsageError, WorkError
    from hat.io.atomic_output import atomic_output, check_output

    from .verification import verify as run

    if num_ids is not None and data is None:
        raise UsageError("--num-ids chooses identities of a data set: give one with --data")
    for path in (report, report_json):
        if path is not None:
            check_output(path, overwrite=force)
    set_gray_bits(gray_bits)
    tasks: dict[str, Any] = {}
    with progress() as display:

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = display.add_task(what, total=total, info="")
            display.update(tasks[what], completed=done)

        verification = run(
            reference,
            candidates,
            images,
            open_dataset(data) if data is not None else None,
            num_images=num_images,
            num_ids=num_ids,
            seed=seed,
            device=device,
            batch_size=batch_size,
            progress=tell,
        )
    content = verification.to_dict()
    if report_json is not None:
        with atomic_output(report_json, overwrite=force) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if report is not None:
        with atomic_output(report, overwrite=force) as temporary:
            temporary.write_text(verification.to_html(), encoding="utf-8")
    emit(content, _table(verification), as_json)
    if not verification.passed:
        bad = [f"{result.name} ({'; '.join(result.failures)})" for result in verification.candidates if not result.passed]
        raise WorkError(f"{len(bad)} of {len(verification.candidates)} candidates disagree with {reference}: {', '.join(bad)}")


def _table(report: VerificationReport) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from .verification_report import SHORT_NAMES

    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("candidate", overflow="fold", min_width=20)
    table.add_column("verdict", no_wrap=True)
    for column in report.summary_names:
        table.add_column(SHORT_NAMES.get(column, column), justify="right", overflow="fold")
    lines: list[RenderableType] = [Text(f"reference {report.reference} ({report.reference_runtime})")]
    lines += [Text(f"{name}: {text}") for name, text in report.circumstances.items() if name not in ("machine", "versions")]
    lines += ["", table]
    for result in report.candidates:
        cells = []
        for check in map(result.check, report.summary_names):
            if check is None:
                cells.append(Text("-", "dim"))
                continue
            value = Text(check.value_text, "" if check.passed else "bold red")
            cells.append(Text.assemble(value, "\n", (f"{check.sense} {check.limit_text}", "dim")))
        verdict = Text("pass", "bold green") if result.passed else Text("FAIL", "bold red")
        name = Text.assemble(result.name, "\n", (f"{result.runtime}, limits of {result.tolerance}", "dim"))
        table.add_row(name, verdict, *cells)
        lines += [Text(f"{result.name}: {sentence}", "red") for sentence in result.problems]
        lines += [Text(f"{result.name}: {hint}", "yellow") for hint in result.hints]
    return Group(*lines)

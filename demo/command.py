"""``hat demo``: search, compare and look inside, in the browser."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hat.console import progress, stderr
from hat.errors import UsageError

if TYPE_CHECKING:
    from .workbench import Workbench

__all__ = ["demo"]


def demo(
    file: Annotated[
        str | None, typer.Argument(help="A checkpoint folder or an exported file; the model that ships, if none is given.")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="A gallery's file; made where there is none.")] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set for queries to try, and for a gallery where none is given: DIR, or NAME=DIR.")
    ] = None,
    compare: Annotated[list[str] | None, typer.Option(help="Another file of the model to compare with; repeatable.")] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="A report of `hat verify` or `hat bench`, or a folder of them; repeatable.")
    ] = None,
    max_images: Annotated[int, typer.Option(min=1, help="Most gallery images of --data that are embedded.")] = 1000,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse adding to galleries and removing from them.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs --user.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; a free one from 7860 on if none is given.")] = None,
    user: Annotated[
        str | None, typer.Option(help="Ask for this name and the password in the variable HAT_DEMO_PASSWORD.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
) -> None:
    """Search, compare and look inside, in the browser.

    Rank a gallery for a person, with filters and re-ranking; add images and remove them for good; rank with several files of
    one model side by side; see where the model looks; read the last reports. Without --gallery and --data a small gallery of
    generated people is drawn. The page is served to this machine alone, and asks no other one for anything.

    Examples:

      hat demo runs/market

      hat demo runs/market --gallery people.gallery --compare market.onnx --compare market-int8.xml

      hat demo runs/market --data ~/data --report parity.json --report speed.json

      HAT_DEMO_PASSWORD=... hat demo runs/market --host 0.0.0.0 --user anna
    """
    from .launching import Address, private_environment, serve_page
    from .reports import check_report_paths

    address = Address(host, port, user, os.environ.get("HAT_DEMO_PASSWORD") if user is not None else None)
    reports = tuple(path.expanduser() for path in report or ())
    check_report_paths(reports)
    model = _model(file)
    with private_environment() as folder:
        bench = _workbench(model, folder, gallery, data, compare or [], max_images, None if device == "auto" else device)
        bench.report_paths, bench.read_only = reports, read_only
        try:
            page, url = serve_page(bench, address, opens_browser=open_browser)
            stderr.print(f"the demo is at [bold]{url}[/bold]  (Ctrl+C ends it)")
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                stderr.print("the demo has ended")
            finally:
                page.close(verbose=False)
        finally:
            bench.close()


def _model(file: str | None) -> Path:
    from hat.shipped_model import shipped_model

    if file is not None:
        return Path(file).expanduser()
    shipped = shipped_model()
    if shipped is None:
        raise UsageError(
            "no model was given, and this installation ships none: name a checkpoint or an exported file, or make a first one "
            "with `hat quickstart`"
        )
    return shipped


def _workbench(
    model: Path,
    folder: Path,
    gallery_path: Path | None,
    data: str | None,
    compare: list[str],
    max_images: int,
    device: str | None,
) -> Workbench:
    """Open everything that the page works with."""
    from hat.data import open_dataset
    from hat.embedder import Embedder
    from hat.serve import Gallery

    from .comparison import Artefact
    from .people import draw_people, enroll_dataset, gallery_sample, sample_queries
    from .workbench import SharedEmbedder, Workbench

    stderr.print(f"opening {model}", markup=False)
    embedder = SharedEmbedder(Embedder.open(model, device=device))
    others = [Artefact(_short_name(path, compare), Embedder.open(Path(path).expanduser(), device=device)) for path in compare]
    bench = Workbench(model, embedder, folder, others=tuple(others))
    if gallery_path is not None:
        path = gallery_path.expanduser()
        bench.galleries[path.stem] = Gallery.open(path, binding=bench.binding, create=True)
    with progress() as display:
        dataset = open_dataset(data) if data is not None else None
        if dataset is None and gallery_path is None:
            task = display.add_task("drawing people", total=None, info="")
            dataset = draw_people(
                folder / "people", advance=lambda done, total: display.update(task, completed=done, total=total)
            )
        if dataset is not None and gallery_path is None:
            name = "generated people" if data is None else dataset.name
            bench.galleries[name] = Gallery.open(folder / "sample.gallery", binding=bench.binding, create=True)
            total = len(gallery_sample(dataset, max_images))
            embedding = display.add_task("embedding the gallery", total=total, info="")
            enroll_dataset(
                bench.galleries[name],
                embedder,
                dataset,
                max_images=max_images,
                advance=lambda count: display.advance(embedding, count),
            )
        if dataset is not None:
            known = {pid for pid in bench.gallery("").counts().by_pid if pid is not None}
            bench.samples = sample_queries(dataset, known)
    return bench


def _short_name(path: str, among: list[str]) -> str:
    """The last part of a path, or all of it where two end alike."""
    names = [Path(one).name for one in among]
    return Path(path).name if names.count(Path(path).name) == 1 else path

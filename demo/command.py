"""``hat demo``: search, compare and look inside, in the browser."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hat.console import progress, stderr
from hat.errors import HatError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from hat.data import ReIDDataset

    from .app_state import AppState


def demo(
    file: Annotated[
        str | None, typer.Argument(help="A checkpoint folder or an exported file; the model that ships, if none is given.")
    ] = None,
    gallery: Annotated[
        str | None, typer.Option(help="A gallery's file, made where there is none, or milvus://host:port/name.")
    ] = None,
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
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name under which the page is called, behind a proxy; repeatable.")
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
    from .launching import Address, check_address, interruptible, private_environment, serve_page
    from .pages.report import check_report_paths

    password = os.environ.get("HAT_DEMO_PASSWORD") if user is not None else None
    address = Address(host, port, user, password, tuple(allow_host or ()))
    check_address(address)
    reports = tuple(path.expanduser() for path in report or ())
    check_report_paths(reports)
    model = _model(file)
    try:
        with interruptible(), private_environment() as folder:
            state = _open_state(
                model,
                folder,
                gallery,
                data,
                compare or [],
                max_images,
                None if device == "auto" else device,
                read_only=read_only,
            )
            state.report_paths = reports
            try:
                page, url = serve_page(state, address, opens_browser=open_browser)
                stderr.print(f"the demo is at [bold]{url}[/bold]  (Ctrl+C ends it)")
                try:
                    threading.Event().wait()
                finally:
                    page.close(verbose=False)
            finally:
                state.close()
    except KeyboardInterrupt:
        stderr.print("the demo has ended")


def _model(file: str | None) -> str:
    from hat.embedder import shipped_model

    if file is not None:
        return file
    shipped = shipped_model()
    if shipped is None:
        raise UsageError(
            "no model was given, and this installation ships none: name a checkpoint or an exported file, or make a first one "
            "with `hat quickstart`"
        )
    return str(shipped)


def _open_state(
    model: str,
    folder: Path,
    gallery: str | None,
    data: str | None,
    compare: list[str],
    max_images: int,
    device: str | None,
    *,
    read_only: bool,
) -> AppState:
    """Open everything that the page works with."""
    from hat.data import open_dataset
    from hat.embedder import Embedder

    from .app_state import AppState, SharedEmbedder
    from .comparison import Artifact
    from .people import draw_people, sample_queries

    stderr.print(f"opening {model}", markup=False)
    embedder = SharedEmbedder(Embedder.open(model, device=device))
    others = [Artifact(_short_name(path, compare), Embedder.open(path, device=device)) for path in compare]
    state = AppState(model, embedder, folder, others=tuple(others), read_only=read_only)
    try:
        dataset = open_dataset(data) if data is not None else None
        with progress() as display:
            if gallery is not None:
                _open_gallery(state, gallery)
            elif dataset is None:
                task = display.add_task("drawing people", total=None, info="")
                dataset = draw_people(
                    folder / "people", advance=lambda done, total: display.update(task, completed=done, total=total)
                )
                _fill_gallery(state, "generated people", dataset, max_images, display)
            else:
                _fill_gallery(state, dataset.name, dataset, max_images, display)
        if dataset is not None:
            known = {pid for pid in state.gallery("").counts().by_pid if pid is not None}
            state.samples = sample_queries(dataset, known)
    except HatError:
        state.close()
        raise
    return state


def _open_gallery(state: AppState, location: str) -> None:
    from hat.serve import Gallery

    from .view.markup import last_part

    is_new = "://" not in location and not Path(location).expanduser().exists()
    place = location if "://" in location else Path(location).expanduser()
    opened = Gallery.open(place, binding=state.binding, create=not state.read_only, read_only=state.read_only)
    opened.prepare()
    state.galleries[last_part(location).removesuffix(".gallery")] = opened
    if is_new:
        stderr.print(f"{location} is a new, empty gallery", markup=False)


def _fill_gallery(state: AppState, name: str, dataset: ReIDDataset, max_images: int, display: Progress) -> None:
    """Enroll a data set in a gallery that lasts as long as the demo."""
    from hat.serve import Gallery

    from .people import enroll_dataset, gallery_sample

    state.galleries[name] = Gallery.open(state.folder / "sample.gallery", binding=state.binding, create=True)
    task = display.add_task("embedding the gallery", total=len(gallery_sample(dataset, max_images)), info="")
    enroll_dataset(
        state.galleries[name],
        state.embedder,
        dataset,
        max_images=max_images,
        advance=lambda count: display.advance(task, count),
    )


def _short_name(path: str, among: list[str]) -> str:
    """Return the last part of a path, or all of it where two end alike."""
    from .view.markup import last_part

    return last_part(path) if [last_part(one) for one in among].count(last_part(path)) == 1 else path

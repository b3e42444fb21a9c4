"""``hat demo``: search, compare and look inside, in the browser."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hat.commands.options import GrayBits
from hat.console import progress, stderr
from hat.errors import UsageError

if TYPE_CHECKING:
    from .app_state import AppState

_MAX_IMAGES = 1000  # of a data set's gallery


def demo(
    file: Annotated[
        str | None, typer.Argument(help="A checkpoint folder or an exported file; the model that ships, if none is given.")
    ] = None,
    gallery: Annotated[
        str | None, typer.Option(help="A gallery's file, created where it is missing, or milvus://host:port/name.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A data set for sample queries, and for a gallery where none is given: DIR, or NAME=DIR.")
    ] = None,
    compare: Annotated[list[str] | None, typer.Option(help="Another file of the model to compare with; repeatable.")] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="A report of `hat verify` or `hat bench`, or a folder of them; repeatable.")
    ] = None,
    max_images: Annotated[
        int | None, typer.Option(min=1, help=f"Maximum gallery images of --data; {_MAX_IMAGES} if not given.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse adding to galleries and removing from them.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    gray_bits: GrayBits = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs --user.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; a free one from 7860 on if none is given.")] = None,
    user: Annotated[
        str | None, typer.Option(help="Require a log-in with this name and the password in the variable HAT_DEMO_PASSWORD.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name under which the page is called, behind a proxy; repeatable.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
) -> None:
    """Search, compare and look inside, in the browser.

    Rank a gallery for a person, with filters and re-ranking; add images and remove them for good; rank with several files of
    one model side by side; see where the model looks; read the last reports. Without --gallery and --data a small gallery of
    generated people is drawn. The page is served to this machine alone, and sends no request to any other.

    Examples:

      hat demo runs/market

      hat demo runs/market --gallery people.gallery --compare market.onnx --compare market-int8.xml

      hat demo runs/market --data ~/data --report parity.json --report speed.json

      HAT_DEMO_PASSWORD=... hat demo runs/market --host 0.0.0.0 --user anna
    """
    from hat.data.images import set_gray_bits
    from hat.io.checkpoint import shipped_model

    from .launching import Address, check_address, interruptible, private_environment, serve_page
    from .pages.report import check_report_paths

    password = os.environ.get("HAT_DEMO_PASSWORD") if user is not None else None
    address = Address(host, port, user, password, tuple(allow_host or ()))
    if gallery is not None and max_images is not None:
        raise UsageError("--max-images bounds the gallery that is made of --data, and --gallery names another: give one")
    check_address(address)
    reports = tuple(report or ())
    check_report_paths(reports)
    set_gray_bits(gray_bits)
    model = file or shipped_model()
    if model is None:
        raise UsageError(
            "no model was given, and this installation ships none: name a checkpoint or an exported file, or make a first one "
            "with `hat quickstart`"
        )
    try:
        with interruptible(), private_environment() as folder, contextlib.ExitStack() as stack:
            stderr.print(f"opening {model}")
            state = _open_models(str(model), compare or [], device, folder, reports, read_only)
            stack.callback(state.close)
            _open_people(state, gallery, data, max_images or _MAX_IMAGES)
            page, url = serve_page(state, address, opens_browser=open_browser)
            stack.callback(page.close, verbose=False)
            stderr.print("the demo is at", Text(url, "bold"), " (Ctrl+C ends it)")
            threading.Event().wait()
    except KeyboardInterrupt:
        stderr.print("the demo has ended")


def _open_models(
    model: str, compare: list[str], device: str, folder: Path, reports: tuple[Path, ...], read_only: bool
) -> AppState:
    """Open the model and the files to compare it with, called by the last part of their paths unless two end alike."""
    from hat.embedder import Embedder

    from .app_state import AppState, SharedEmbedder
    from .view.markup import last_part

    paths = [model, *compare]
    endings = [last_part(path) for path in paths]
    names = [ending if endings.count(ending) == 1 else path for ending, path in zip(endings, paths, strict=True)]
    embedder, *others = (
        SharedEmbedder(Embedder.open(path, device=device), name) for path, name in zip(paths, names, strict=True)
    )
    return AppState(model, embedder, folder, others=tuple(others), report_paths=reports, read_only=read_only)


def _open_people(state: AppState, location: str | None, data: str | None, max_images: int) -> None:
    """Open the gallery, or make one for as long as the demo lasts of the data set or of generated people; and find queries."""
    from hat.data import open_dataset
    from hat.serve import Gallery

    from .people import draw_people, enroll_dataset, gallery_sample, sample_queries
    from .view.markup import last_part

    dataset = open_dataset(data) if data is not None else None
    if location is not None:
        is_remote, path = "://" in location, Path(location).expanduser()
        is_new = not is_remote and not path.exists()
        opened = Gallery.open(
            location if is_remote else path, binding=state.binding, create=not state.read_only, read_only=state.read_only
        )
        state.galleries[last_part(location).removesuffix(".gallery")] = opened
        opened.prepare()
        if is_new:
            stderr.print(f"{location} is a new, empty gallery")
    else:
        with progress() as display:
            if dataset is None:
                task = display.add_task("drawing people", total=None, info="")
                dataset = draw_people(
                    state.folder / "people", lambda done, total: display.update(task, completed=done, total=total)
                )
            name = "generated people" if data is None else dataset.name
            state.galleries[name] = Gallery.open(state.folder / "sample.gallery", binding=state.binding, create=True)
            chosen = gallery_sample(dataset, max_images)
            task = display.add_task("embedding the gallery", total=len(chosen), info="")
            enroll_dataset(state.galleries[name], state.embedder, dataset, chosen, lambda count: display.advance(task, count))
    if dataset is not None:
        state.samples = sample_queries(dataset, state.gallery("").counts().by_pid)

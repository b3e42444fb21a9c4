"""``hat embed``: names and embeddings of images, as a file for other programs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.console import emit, progress

from .enroll import print_reasons
from .options import AsJson

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from hat.embedder import Embedder

    from ..enroll.enrolling import Item


_ENDINGS = (".npz", ".parquet", ".csv")


def embed(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, an exported file, or triton://HOST:PORT/MODEL.")],
    images: Annotated[list[str], typer.Argument(help="Images, folders, zip files, tables (.csv), or one video with --boxes.")],
    out: Annotated[Path, typer.Option(help="File to write: .npz, .parquet or .csv.")],
    boxes: Annotated[Path | None, typer.Option(help="People in the video, see hat enroll.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per run of the model.")] = 32,
    as_json: AsJson = False,
) -> None:
    """Write the embeddings of images with their names and, where they are known, identities and cameras.

    Embeddings are float32 rows of unit length: their inner product is the cosine similarity. Images are read as by hat enroll.
    An .npz holds the arrays source, pid, camid (texts, empty where unknown), embeddings (n, embed_dim) and the model's
    fingerprint; a table holds a row for each image. Images that cannot be used are named and left out.

    Examples:

      hat embed runs/market ~/crops --out embeddings.npz

      hat embed market.onnx people.csv --out embeddings.parquet

      hat embed market.onnx yard.mp4 --boxes boxes.csv --out yard.csv
    """
    import numpy as np

    from hat.embedder import Embedder
    from hat.errors import UsageError, WorkError
    from hat.io.atomic_output import atomic_output
    from hat.runtime import runtime_info

    from ..enroll.image_sources import ImageSources

    if out.suffix.lower() not in _ENDINGS:
        raise UsageError(f"{out}: the ending says how it is written, expected one of {', '.join(_ENDINGS)}")
    if out.suffix.lower() == ".parquet":
        _pyarrow()
    sources = ImageSources(images, boxes=boxes)
    total = sources.count()
    if not total:
        raise UsageError(f"there is no image in {', '.join(images)}")
    with atomic_output(out, overwrite=force) as unfinished:
        embedder = Embedder.open(model, device=device, batch_size=batch_size)
        bad: list[tuple[str, str]] = []
        items: list[Item] = []
        rows = [np.empty((0, embedder.embed_dim), dtype=np.float32)]
        with progress() as display:
            task = display.add_task("embedding", total=total, info="")
            for batch, embeddings, num_handled in _embedded(embedder, sources.items(), bad):
                items += batch
                rows.append(embeddings)
                display.advance(task, num_handled)
        print_reasons("left out", bad)
        if not items:
            raise WorkError(f"none of {len(bad):,} images can be used; the first: {': '.join(bad[0])}")
        fingerprint = runtime_info(embedder.runtime).fingerprint
        _WRITERS[out.suffix.lower()](unfinished, items, np.concatenate(rows), fingerprint)
    result = {
        "out": str(out),
        "num_images": len(items),
        "embed_dim": embedder.embed_dim,
        "fingerprint": fingerprint,
        "bad": [{"source": source, "reason": reason} for source, reason in bad],
        "left_out": dict(sources.left_out),
    }
    emit(result, f"{out}: {len(items):,} embeddings of {embedder.embed_dim} numbers, {len(bad):,} images left out", as_json)


def _embedded(
    embedder: Embedder, items: Iterator[Item], bad: list[tuple[str, str]]
) -> Iterator[tuple[list[Item], npt.NDArray[np.float32], int]]:
    """Items that could be read, their embeddings, and how many items were tried, a batch at a time."""
    from hat.errors import ImageError

    while tried := list(islice(items, embedder.batch_size)):
        batch, pictures = [], []
        for item in tried:
            try:
                pictures.append(_picture(item))
                batch.append(item)
            except ImageError as error:
                bad.append((item.source, str(error).removeprefix(f"{item.source}: ")))
        yield batch, embedder.embed(pictures), len(tried)


def _picture(item: Item) -> Image.Image:
    from hat.data.images import decode_image

    from ..gallery.person_crops import crop_person

    image = decode_image(item.read(), item.source)
    return image if item.box is None else crop_person(image, item.box, item.source)


def _labels(items: Sequence[Item]) -> dict[str, list[str]]:
    """Texts by column; the text of what is not known is empty."""
    return {
        "source": [item.source for item in items],
        "pid": ["" if item.pid is None else str(item.pid) for item in items],
        "camid": ["" if item.camid is None else str(item.camid) for item in items],
    }


def _write_npz(path: Path, items: Sequence[Item], embeddings: npt.NDArray[np.float32], fingerprint: str) -> None:
    import numpy as np

    columns: dict[str, Any] = {name: np.array(texts) for name, texts in _labels(items).items()}
    with path.open("wb") as file:
        np.savez(file, embeddings=embeddings, fingerprint=np.array(fingerprint), **columns)


def _write_csv(path: Path, items: Sequence[Item], embeddings: npt.NDArray[np.float32], fingerprint: str) -> None:
    labels = _labels(items)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*labels, *(f"e{number}" for number in range(embeddings.shape[1]))])
        for *texts, row in zip(*labels.values(), embeddings, strict=True):
            writer.writerow([*texts, *(f"{value:.9g}" for value in row.tolist())])


def _write_parquet(path: Path, items: Sequence[Item], embeddings: npt.NDArray[np.float32], fingerprint: str) -> None:
    pyarrow, parquet = _pyarrow()
    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(embeddings.reshape(-1)), embeddings.shape[1])
    table = pyarrow.table({**_labels(items), "embedding": values})
    parquet.write_table(table.replace_schema_metadata({"hat_fingerprint": fingerprint}), path)


def _pyarrow() -> tuple[Any, Any]:
    from hat.errors import UsageError

    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("writing .parquet needs pyarrow: pip install pyarrow, or write .npz or .csv") from None
    return pyarrow, parquet


_WRITERS = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}

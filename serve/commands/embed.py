"""``hat embed``: names and embeddings of images, as a file for other programs."""

import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import typer

from hat.commands.options import GrayBits
from hat.console import emit
from hat.data.images import set_gray_bits
from hat.errors import ImageError, UsageError, WorkError
from hat.io.atomic_output import atomic_output

from ..enroll.image_sources import ImageSources
from ..enroll.items import Item
from . import options

Embeddings: TypeAlias = npt.NDArray[np.float32]


def embed(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, an exported file, or triton://HOST:PORT/MODEL.")],
    images: options.Images,
    out: Annotated[Path, typer.Option(help="File to write: .npz, .parquet or .csv.")],
    boxes: options.Boxes = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 32,
    gray_bits: GrayBits = None,
    as_json: options.AsJson = False,
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
    from ..enroll.enrolling import Problem, problem

    write = _WRITERS.get(out.suffix.lower())
    if write is None:
        raise UsageError(f"{out}: the ending says how it is written, expected one of {', '.join(_WRITERS)}")
    if write is _write_parquet:
        _pyarrow()
    set_gray_bits(gray_bits)
    sources = ImageSources(images, boxes=boxes)
    total = sources.count()
    if not total:
        raise UsageError(f"there is no image in {', '.join(images)}")
    options.tell(*sources.notes)
    with atomic_output(out, overwrite=force) as unfinished:
        embedder, binding = options.open_embedder(model, device, batch_size)
        bad: list[Problem] = []
        items: list[Item] = []
        rows = [np.empty((0, embedder.embed_dim), dtype=np.float32)]
        with options.progress_bar("embedding", total) as advance:
            listed = sources.items()
            while batch := list(islice(listed, embedder.batch_size)):
                pictures = []
                for item in batch:
                    try:
                        pictures.append(item.decode(item.read()))
                        items.append(item)
                    except ImageError as error:
                        bad.append(problem(item.source, error))
                rows.append(embedder.embed(pictures))
                advance(len(batch))
        options.print_problems("left out", bad)
        if not items:
            raise WorkError(f"none of {len(bad):,} images can be used; the first: {': '.join(bad[0])}")
        write(unfinished, items, np.concatenate(rows), binding.fingerprint)
    result = {
        "out": str(out),
        "num_images": len(items),
        "embed_dim": embedder.embed_dim,
        "fingerprint": binding.fingerprint,
        "bad": [entry._asdict() for entry in bad],
        "left_out": dict(sources.left_out),
        "notes": sources.notes,
    }
    emit(result, f"{out}: {len(items):,} embeddings of {embedder.embed_dim} numbers, {len(bad):,} images left out", as_json)


def _labels(items: Sequence[Item]) -> dict[str, list[str]]:
    """Texts by column; the text of what is not known is empty."""
    rows = ((item.source, item.pid, item.camid) for item in items)
    texts = [["" if value is None else str(value) for value in column] for column in zip(*rows, strict=True)]
    return dict(zip(("source", "pid", "camid"), texts, strict=True))


def _write_npz(path: Path, items: Sequence[Item], embeddings: Embeddings, fingerprint: str) -> None:
    columns: dict[str, Any] = {name: np.array(texts) for name, texts in _labels(items).items()}
    with path.open("wb") as file:
        np.savez(file, embeddings=embeddings, fingerprint=np.array(fingerprint), **columns)


def _write_csv(path: Path, items: Sequence[Item], embeddings: Embeddings, fingerprint: str) -> None:
    labels = _labels(items)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*labels, *(f"e{number}" for number in range(embeddings.shape[1]))])
        for *texts, row in zip(*labels.values(), embeddings, strict=True):
            writer.writerow([*texts, *(f"{value:.9g}" for value in row.tolist())])


def _write_parquet(path: Path, items: Sequence[Item], embeddings: Embeddings, fingerprint: str) -> None:
    pyarrow, parquet = _pyarrow()
    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(embeddings.reshape(-1)), embeddings.shape[1])
    table = pyarrow.table({**_labels(items), "embedding": values})
    parquet.write_table(table.replace_schema_metadata({"hat_fingerprint": fingerprint}), path)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("writing .parquet needs pyarrow: pip install pyarrow, or write .npz or .csv") from None
    return pyarrow, parquet


_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}

"""``hat eval``: retrieval accuracy of a model on one or more data sets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.commands.options import AsJson, BatchSize, Device, Force, GrayBits, Record, SkipBad
from hat.console import RATES, append_record, check_record, emit, make_table, percent, progress, stderr

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hat.data.datasets import ReIDDataset
    from hat.embedder import Embedder
    from hat.evaluation import Ranking

    Embeddings = npt.NDArray[np.float32]


_NUM_PICTURED = 8
"""People in a picture of activation maps."""


def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or exported file (.onnx, .xml, .engine).")],
    data: Annotated[
        list[str],
        typer.Option("--data", help="Folder, zip file or table; NAME=PATH names it. Repeatable."),
    ],
    rerank: Annotated[bool, typer.Option("--rerank", help="Rank by k-reciprocal re-ranking distances.")] = False,
    flip: Annotated[bool, typer.Option("--flip", help="Embed each image together with its mirror image (flip test).")] = False,
    center_cameras: Annotated[
        bool,
        typer.Option("--center-cameras", help="Subtract each camera's mean embedding first: better on unseen cameras."),
    ] = False,
    no_cameras: Annotated[
        bool,
        typer.Option("--no-cameras", help="Also count pairs from the same camera: for data without meaningful cameras."),
    ] = False,
    split_seed: Annotated[
        int, typer.Option(min=0, help="Seed of the split, for layouts of one folder per identity or camera.")
    ] = 0,
    save_split: Annotated[
        Path | None, typer.Option(help="Write the split as a table (path,pid,camid,split) for reuse.")
    ] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    batch_size: BatchSize = 32,
    num_workers: Annotated[int | None, typer.Option(min=1, help="Image decoding threads; by default one per core.")] = None,
    gray_bits: GrayBits = None,
    skip_bad: SkipBad = False,
    record: Record = None,
    rank_list: Annotated[Path | None, typer.Option(help="Plot ranked lists, correct and wrong matches framed.")] = None,
    cam: Annotated[Path | None, typer.Option(help="Plot class activation maps of MFE and DSA.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Checkpoint whose CNN --cam shows for comparison.")] = None,
    tfc_maps: Annotated[Path | None, typer.Option(help="Plot the averaged maps of every TFC.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on one or more data sets: mAP, Rank-1, Rank-5, Rank-10 and mINP.

    Single query. Junk images and gallery images of the query's identity from the query's own camera are ignored; queries
    without a match are excluded from the means and counted. Plots are of the first data set.

    Your own data: one folder per identity (name or number), with the camera in the file names (0002_c1s1_01.jpg,
    front_cam2.jpg) or in subfolders ID/cam1/; train/, query/ and gallery/ with such folders or with Market-style names; one
    folder per camera; or a table with the columns path,pid,camid,split.

    Examples:

      hat eval runs/market --data ~/data

      hat eval hat_mobilenet_v2_market1501 --data ~/photos

      hat eval runs/market --data market1501=~/data --data msmt17=~/msmt --rerank --json

      hat eval runs/market --data ~/photos --center-cameras

      hat eval runs/market --data ~/data --rank-list ranks.png --cam cam.png --tfc-maps maps.png
    """
    from hat.data.csv_table import write_csv_table
    from hat.data.images import set_gray_bits
    from hat.embedder import Embedder
    from hat.evaluation import center_dataset, rank_dataset
    from hat.io.atomic_output import check_output
    from hat.runtime.torch_runtime import checked_precision

    start = time.monotonic()
    check_record(record)
    set_gray_bits(gray_bits)
    if save_split is not None:
        check_output(save_split, overwrite=False)
    datasets = _open_datasets(data, split_seed, skip_bad=skip_bad, no_cameras=no_cameras, center_cameras=center_cameras)
    if save_split is not None:
        write_csv_table(datasets[0], save_split)
    embedder = Embedder.open(
        model, device=device, precision=checked_precision(precision), batch_size=batch_size, num_workers=num_workers
    )
    _check_pictures(embedder, datasets[0], rank_list, cam, tfc_maps, baseline, overwrite=force)
    results: list[dict[str, Any]] = []
    for dataset in datasets:
        num_bad = 0
        if skip_bad:
            dataset, num_bad = _without_bad_images(dataset, no_cameras)  # noqa: PLW2901
        query, gallery, seconds = _embed(embedder, dataset, flip)
        if center_cameras:  # by the cameras that there are, also where they do not decide which pairs count
            query, gallery = center_dataset(query, gallery, dataset)
        if no_cameras:
            dataset = dataset.without_cameras()  # noqa: PLW2901
        ranking = rank_dataset(query, gallery, dataset, rerank=rerank)
        if not results:
            _draw_ranks(ranking, dataset, Path(model).name, rank_list)
            _draw_maps(embedder, dataset, baseline, cam, tfc_maps)
        results.append(
            {"dataset": dataset.name, **ranking.result.to_dict(), "has_cameras": dataset.has_cameras}
            | {"num_bad_images": num_bad, "images_per_s": round((len(query) + len(gallery)) / seconds, 1)}
        )

    rows = [_row(result) for result in results]
    if record is not None:
        options = {"re-ranked": rerank, "flip": flip, "cameras centered": center_cameras}
        kind = ", ".join([embedder.runtime.name, *(name for name, is_set in options.items() if is_set)])
        append_record(record, f"{Path(model).name} ({kind})", rows, time.monotonic() - start)
    result = {"model": model, "runtime": embedder.runtime.name, "rerank": rerank, "flip": flip}
    result |= {"center_cameras": center_cameras, "results": results}
    emit(result, make_table([list(row.values()) for row in rows], list(rows[0]), left=("data set",)), as_json)


def _open_datasets(
    specs: list[str], split_seed: int, *, skip_bad: bool, no_cameras: bool, center_cameras: bool
) -> list[ReIDDataset]:
    """Open data sets that can be ranked as it was asked for."""
    from hat.data import open_dataset
    from hat.evaluation import check_centerable, check_rankable

    datasets = [open_dataset(spec, split_seed=split_seed, skip_missing=skip_bad) for spec in specs]
    for dataset in datasets:
        if center_cameras:
            check_centerable(dataset)
        check_rankable(dataset.without_cameras() if no_cameras else dataset)
    return datasets


def _without_bad_images(dataset: ReIDDataset, no_cameras: bool) -> tuple[ReIDDataset, int]:
    """Return a data set without images that cannot be used, which are named, and their number."""
    from hat.data.loading import without_bad_images
    from hat.evaluation import check_rankable

    dataset, bad = without_bad_images(dataset, ("query", "gallery"))
    for path, reason in bad:
        stderr.print(f"left out: {path}: {reason}")
    check_rankable(dataset.without_cameras() if no_cameras else dataset)  # what is left of it
    return dataset, len(bad)


def _embed(embedder: Embedder, dataset: ReIDDataset, flip: bool) -> tuple[Embeddings, Embeddings, float]:
    from hat.data.datasets import find_overlaps
    from hat.data.images import describe_frames
    from hat.evaluation import embed_dataset

    for note in (*dataset.notes, *find_overlaps(dataset), *describe_frames(dataset.query.paths)):
        stderr.print(f"{dataset.name}: {note}", soft_wrap=True)
    start = time.monotonic()
    with progress() as display:
        task = display.add_task(f"embedding {dataset.name}", total=len(dataset.query) + len(dataset.gallery), info="")
        query, gallery = embed_dataset(embedder, dataset, flip=flip, advance=lambda count: display.advance(task, count))
    return query, gallery, time.monotonic() - start


def _draw_ranks(ranking: Ranking, dataset: ReIDDataset, title: str, path: Path | None) -> None:
    from hat import visual

    if path is not None:
        ranked = visual.rank_rows(ranking.query, ranking.gallery, dataset, distances=ranking.distances)
        _save(visual.ranked_list(ranked, dataset, title=title, result=ranking.result), path)


def _draw_maps(embedder: Embedder, dataset: ReIDDataset, baseline: str | None, cam: Path | None, tfc_maps: Path | None) -> None:
    if cam is None and tfc_maps is None:
        return
    from hat import visual
    from hat.data import read_image
    from hat.io.checkpoint import load_checkpoint
    from hat.runtime import TorchRuntime

    assert isinstance(embedder.runtime, TorchRuntime)
    step = max(1, len(dataset.query) // _NUM_PICTURED)
    images = [read_image(sample.path) for sample in dataset.query.samples[::step][:_NUM_PICTURED]]
    if cam is not None:
        plain = load_checkpoint(baseline, embedder.runtime.device) if baseline else None
        _save(visual.activation_maps(embedder.runtime.model, images, baseline=plain), cam)
    if tfc_maps is not None:
        _save(visual.tfc_maps(embedder.runtime.model, images), tfc_maps)


def _check_pictures(
    embedder: Embedder,
    dataset: ReIDDataset,
    rank_list: Path | None,
    cam: Path | None,
    tfc_maps: Path | None,
    baseline: str | None,
    *,
    overwrite: bool,
) -> None:
    """Refuse what could not be drawn before the images are embedded, not after."""
    from hat.errors import UsageError
    from hat.io.checkpoint import read_checkpoint_info
    from hat.io.plot_file import check_picture_path
    from hat.runtime import TorchRuntime

    pictures = [path for path in (rank_list, cam, tfc_maps) if path is not None]
    images = {Path(image).resolve() for image in (*dataset.query.paths, *dataset.gallery.paths)} if pictures else set()
    for path in pictures:
        if path.resolve() in images:
            raise UsageError(f"{path} is an image of {dataset.name}: give the picture another name")
        check_picture_path(path, "--rank-list, --cam and --tfc-maps", overwrite=overwrite)
    if baseline is not None:
        if cam is None:
            raise UsageError("--baseline is shown by --cam: give both")
        read_checkpoint_info(baseline)
    if (cam or tfc_maps) and not isinstance(embedder.runtime, TorchRuntime):
        raise UsageError(f"--cam and --tfc-maps look inside the model and need a checkpoint, not {embedder.runtime.name}")


def _save(picture: Any, path: Path) -> None:
    from hat.io.plot_file import save_picture

    save_picture(picture, path)
    stderr.print(f"drawn: {path}")


def _row(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "data set": result["dataset"],
        **{label: percent(result[key]) for key, label in RATES.items()},
        "queries": f"{result['num_queries']:,} of {result['num_queries'] + result['num_skipped_queries']:,}",
        "pairs": "other cameras" if result["has_cameras"] else "all (no cameras)",
        "images/s": f"{result['images_per_s']:.1f}",
    }

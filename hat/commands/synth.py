"""``hat synth``: generate a multi-camera data set of synthetic pedestrians."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hat.commands.options import AsJson, parse_image_size
from hat.console import emit, make_table, progress


def synth(
    out: Annotated[Path, typer.Argument(help="Output folder; must be absent or empty.", show_default=False)],
    ids: Annotated[int, typer.Option(help="Number of identities, 2 to 9999.")] = 100,
    cams: Annotated[int, typer.Option(help="Number of cameras, 2 to 99.")] = 4,
    seed: Annotated[int, typer.Option(help="Random seed; another seed gives other people and places.")] = 0,
    images_per_camera: Annotated[int, typer.Option(help="Images per identity and camera, 2 to 100.")] = 4,
    train_ids: Annotated[
        int | None,
        typer.Option(help="Training identities; the rest are query and gallery. Half by default.", show_default=False),
    ] = None,
    distractors: Annotated[int, typer.Option(help="False detections in the gallery, labeled 0000.")] = 0,
    size: Annotated[str, typer.Option(help="Height x width of the images in pixels.")] = "256x128",
    workers: Annotated[int | None, typer.Option(help="Worker processes. One per core by default.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier data set of hat synth.")] = False,
    as_json: AsJson = False,
) -> None:
    """Generate a multi-camera data set of synthetic pedestrians in the Market-1501 layout.

    People keep their clothes, build, hair and bag. Cameras differ in viewpoint,
    light, blur, crop and background. The same arguments give the same files.

    The first half of the identities is for training (see --train-ids). Of each
    other identity, one image per camera is a query; the rest are in the gallery.

    [bold]Examples:[/bold]

      hat synth data/drawn

      hat synth data/drawn --ids 1000 --cams 6 --distractors 500

      hat synth /tmp/tiny --ids 8 --cams 2 --size 64x32 --json
    """
    from hat.data.synth import generate_dataset

    with progress() as display:
        task = display.add_task("drawing", total=None, info="")
        summary = generate_dataset(
            out,
            num_ids=ids,
            num_cameras=cams,
            images_per_camera=images_per_camera,
            num_train_ids=train_ids,
            num_distractors=distractors,
            size=parse_image_size(size, "--size"),
            seed=seed,
            num_workers=workers,
            force=force,
            on_progress=lambda done, total: display.update(task, completed=done, total=total),
        )
    rate = summary.num_images / max(summary.seconds, 1e-9)
    num_test_ids = summary.num_ids - summary.num_train_ids
    rows = [
        ("train", summary.num_train_ids, cams, summary.num_train_images),
        ("query", num_test_ids, cams, summary.num_query_images),
        ("gallery", num_test_ids, cams, summary.num_gallery_images),
    ]
    table = make_table(rows, ("part", "identities", "cameras", "images"), left=("part",))
    table.title, table.title_justify = summary.out, "left"
    table.caption = f"{summary.num_images} images in {summary.seconds:.1f} s, {rate:.0f} images/s, seed {seed}"
    result = asdict(summary) | {"num_images": summary.num_images, "images_per_second": round(rate, 1)}
    emit(result | {"seconds": round(summary.seconds, 3)}, table, as_json)

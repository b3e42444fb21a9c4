"""How far students stand from their teacher on people whom they have not learned: 1 - cosine, without a label of anybody.

    python benchmarks/teacher_gap.py runs/edge runs/other --teacher teacher.onnx --data ~/data --data synth=drawn

A student's embeddings are led to the teacher's by the linear map that fits best on training images of the first data set.
The distance is measured on others of them, and on query images of each data set, as they are and with their colors changed:
brightness and saturation by up to 50 %, contrast by up to 40 %, hue by up to a tenth of the circle.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import one_sentence_errors
from PIL import Image
from torch import Tensor

from hat import Embedder
from hat.console import append_record, markdown_table
from hat.data import open_dataset
from hat.data.images import read_image, to_rgb
from hat.export.parity.candidate import choose_images
from hat.train.augmentation import color_jitter
from hat.train.distillation import best_projection

LARGEST_CHANGE = torch.tensor([0.5, 0.4, 0.5, 0.1])  # of brightness, contrast, saturation and hue
UNCHANGED = torch.tensor([1.0, 1.0, 1.0, 0.0])


def change_colors(path: str, generator: torch.Generator) -> Image.Image:
    pixels = torch.from_numpy(np.array(to_rgb(read_image(path)))).permute(2, 0, 1)[None]
    factors = UNCHANGED + LARGEST_CHANGE * (2 * torch.rand(1, 4, generator=generator) - 1)
    return Image.fromarray(color_jitter(pixels, factors)[0].permute(1, 2, 0).numpy())


def embed(embedder: Embedder, images: list[str] | list[Image.Image]) -> Tensor:
    return torch.from_numpy(embedder.embed(images))


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", help="checkpoints or exported files")
    parser.add_argument("--teacher", required=True, help="a checkpoint or an exported file")
    parser.add_argument("--data", action="append", required=True, help="a data set, DIR or NAME=DIR; as many as you like")
    parser.add_argument("--num-fit", type=int, default=4096, help="training images to fit on (default %(default)s)")
    parser.add_argument("--num-images", type=int, default=512, help="images of each kind (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--record", type=Path, help="append the table to this Markdown file")
    options = parser.parse_args()
    began = time.monotonic()
    datasets = [open_dataset(data) for data in options.data]
    train = choose_images(datasets[0].train.paths, options.num_fit + options.num_images, options.seed)
    fit, train = train[: options.num_fit], train[options.num_fit :]
    if not train:
        parser.error(f"{datasets[0].name} has no training images beside the {len(fit)} to fit on: lower --num-fit")
    kinds: dict[str, list[str] | list[Image.Image]] = {f"{datasets[0].name}, training": list(train)}
    generator = torch.Generator().manual_seed(options.seed)
    for dataset in datasets:
        query = choose_images(dataset.query.paths, options.num_images, options.seed)
        kinds[f"{dataset.name}, query"] = query
        kinds[f"{dataset.name}, query, colors changed"] = [change_colors(path, generator) for path in query]
    kinds = {name: images for name, images in kinds.items() if images}
    teacher = Embedder.open(options.teacher, device=options.device)
    taught, targets = embed(teacher, fit), {name: embed(teacher, images) for name, images in kinds.items()}
    rows = []
    for path in options.students:
        student = Embedder.open(path, device=options.device)
        weight, bias = best_projection(embed(student, fit), taught)
        projected = {name: F.linear(embed(student, images).double(), weight, bias) for name, images in kinds.items()}
        gaps = {name: 1 - F.cosine_similarity(projected[name], targets[name].double()).mean() for name in kinds}
        rows.append({"student": f"`{path}`", **{name: round(float(gap), 3) for name, gap in gaps.items()}})
    print(markdown_table(rows), end="")
    if options.record is not None:
        append_record(options.record, f"Distance to {options.teacher}", rows, time.monotonic() - began)


if __name__ == "__main__":
    main()

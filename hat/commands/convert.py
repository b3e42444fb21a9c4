"""``hat convert``: a ``.pth`` file of HAT's released code to a checkpoint folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hat.commands.options import AsJson, parse_image_size
from hat.console import emit
from hat.errors import UsageError


def convert(
    file: Annotated[Path, typer.Argument(help=".pth file written by HAT's released code.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.", show_default=False)],
    last_stride: Annotated[
        int | None,
        typer.Option(min=1, max=2, help="Stride of the CNN's last level in training; not recorded in a state dict."),
    ] = None,
    image_size: Annotated[str | None, typer.Option(help="Height x width of its images if not 2:1, such as 384x128.")] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a .pth file of HAT's released code, a state dict or a whole pickled model, to a checkpoint folder.

    Depths, widths and ResNet variant are read from the tensors. None of the file's code runs. Every command accepts the folder.

    Examples:

      hat convert market_120.pth --last-stride 2 --out runs/released

      hat train market1501 --model hat_resnet50_released --data ~/data --out runs/own --initial-checkpoint runs/released
    """
    from hat.io.checkpoint import CONFIG_FILE, load_released_weights, save_checkpoint

    size = None if image_size is None else parse_image_size(image_size, "--image-size")
    if (out / CONFIG_FILE).exists():
        raise UsageError(f"{out} holds a checkpoint already: choose another --out")
    stride: Any = last_stride
    model, loaded = load_released_weights(file, last_stride=stride, image_size=size)
    save_checkpoint(model, out)
    backbone, depths = model.config.backbone, list(model.config.depths)
    result: dict[str, Any] = {"out": str(out), "backbone": backbone.name, "last_stride": backbone.last_stride, "depths": depths}
    result |= {"image_size": list(model.config.image_size), "num_classes": model.num_classes, "loaded": loaded}
    described = f"{backbone.name}, last stride {backbone.last_stride}, depths {depths}, {model.num_classes} classes"
    emit(result, f"{out}: {described}; {loaded}", as_json)

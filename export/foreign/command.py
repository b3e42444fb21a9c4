"""``hat adopt``: another project's model as one of our files."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from hat.commands.options import AsJson, Force, parse_image_size
from hat.console import emit, stderr
from hat.errors import UsageError


def adopt(
    foreign: Annotated[Path, typer.Argument(help="An .onnx file, or an OpenVINO .xml with its .bin beside it.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, with the same ending.")],
    like: Annotated[str | None, typer.Option(help="How it wants its images: omz, torchreid, fastreid or boxmot.")] = None,
    color: Annotated[str | None, typer.Option(help="Order of its channels: rgb or bgr.")] = None,
    value_range: Annotated[int | None, typer.Option("--range", help="Pixels from 0 to 1, or from 0 to 255.")] = None,
    mean: Annotated[str | None, typer.Option(help="R,G,B, subtracted, in units of --range; or imagenet.")] = None,
    std: Annotated[str | None, typer.Option(help="R,G,B, divided by, in units of --range; or imagenet.")] = None,
    resize: Annotated[str | None, typer.Option(help="Filter of the resize: bilinear or bicubic.")] = None,
    image_size: Annotated[str | None, typer.Option(help="HxW, where the file leaves it open: 256x128.")] = None,
    layout: Annotated[str | None, typer.Option(help="nchw or nhwc, where the file does not say.")] = None,
    output: Annotated[str | None, typer.Option(help="Name of the output that is the embedding.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the model.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Another project's ONNX or OpenVINO model as one of our files: uint8 RGB images in, unit vectors out.

    Every other command takes the file then: eval, verify, bench, enroll, serve, train --teacher. What the output shows to be
    wrong is told on stderr; hat eval on a data set with labels proves the rest.

    Examples:

      hat adopt person-reidentification-retail-0277.xml --like omz --out retail-0277.xml

      hat adopt osnet_x1_0.onnx --like torchreid --out osnet.onnx

      hat adopt own.onnx --color rgb --range 1 --mean imagenet --std imagenet --out adopted.onnx
    """
    from hat.commands.info import artifact_result, artifact_table
    from hat.preprocessing import IMAGENET_MEAN, IMAGENET_STD

    from .adoption import adopt as adopt_model
    from .model import FAMILIES

    scale = value_range or FAMILIES.get(like or "", {}).get("value_range", 1)
    stderr.print(f"adopting {foreign} ...")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adopt_model(
            foreign,
            out,
            like=like,
            name=name,
            overwrite=force,
            color=color,
            value_range=value_range,
            mean=_channels("--mean", mean, IMAGENET_MEAN, scale),
            std=_channels("--std", std, IMAGENET_STD, scale),
            resize=resize,
            image_size=None if image_size is None else parse_image_size(image_size, "--image-size"),
            layout=layout,
            output=output,
        )
    for warning in caught:
        stderr.print(f"hat: warning: {warning.message}", soft_wrap=True)
    out = out.expanduser()
    result = {"target": str(out), **artifact_result(out), "warnings": [str(warning.message) for warning in caught]}
    emit(result, artifact_table(result), as_json)


def _channels(option: str, text: str | None, imagenet: tuple[float, float, float], scale: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    if text == "imagenet":
        return tuple(value * scale for value in imagenet)
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise UsageError(f"{option} is three numbers R,G,B such as 0.485,0.456,0.406, or imagenet; got {text!r}")
    return values

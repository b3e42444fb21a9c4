"""``hat adopt``: wrap a third-party model."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from hat.commands.options import AsJson, Force, parse_image_size
from hat.console import emit, stderr
from hat.errors import UsageError


def adopt(
    foreign: Annotated[Path, typer.Argument(help=".onnx file, or OpenVINO .xml next to its .bin.")],
    out: Annotated[Path, typer.Option("--out", help="Output file, with the same suffix.")],
    like: Annotated[
        str | None, typer.Option(help="Preprocessing of a model family: omz, torchreid, fastreid or boxmot.")
    ] = None,
    color: Annotated[str | None, typer.Option(help="Channel order: rgb or bgr.")] = None,
    value_range: Annotated[int | None, typer.Option("--range", help="Pixel range: 1 (0 to 1) or 255 (0 to 255).")] = None,
    mean: Annotated[str | None, typer.Option(help="R,G,B mean in units of --range, or imagenet.")] = None,
    std: Annotated[str | None, typer.Option(help="R,G,B standard deviation in units of --range, or imagenet.")] = None,
    resize: Annotated[str | None, typer.Option(help="Resize filter: bilinear or bicubic.")] = None,
    image_size: Annotated[str | None, typer.Option(help="HxW, if not fixed in the file: 256x128.")] = None,
    layout: Annotated[str | None, typer.Option(help="nchw or nhwc, if not recorded in the file.")] = None,
    output: Annotated[str | None, typer.Option(help="Name of the embedding output.")] = None,
    name: Annotated[str | None, typer.Option(help="Model name.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Wrap a third-party ONNX or OpenVINO model: uint8 RGB images in, unit vectors out.

    The other commands accept the file: eval, verify, bench, enroll, serve, train --teacher. Suspicious outputs are reported
    on stderr; confirm the rest with hat eval on a labeled data set.

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

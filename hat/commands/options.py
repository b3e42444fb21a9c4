"""Options shared by commands of several subpackages."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from hat.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per run of the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what exists.")]
NumIds = Annotated[int | None, typer.Option(min=2, help="Use only this many identities of the data set.")]
Record = Annotated[Path | None, typer.Option(help="Append the results to this Markdown file.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip images that are missing or unreadable.")]

GrayBits = Annotated[int | None, typer.Option(min=8, max=16, help="Significant bits of 16-bit gray images: 10, 12, 14.")]
"""For `hat.data.images.set_gray_bits`: whatever reads images from files needs it where cameras of fewer bits wrote them."""


def finite(value: float | None) -> float | None:
    """Check a number as the callback of an option: NaN passes any ``min`` and ``max``, infinity a ``min``."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


def parse_image_size(text: str, option: str) -> tuple[int, int]:
    """Return (height, width) of an option such as ``256x128``; the option's name is for the message of the `UsageError`."""
    match = re.fullmatch(r"(\d{1,5})[xX×,](\d{1,5})", text.strip())
    if match is None:
        raise UsageError(f"{option} is height x width in pixels, like 256x128, got {text!r}")
    return int(match[1]), int(match[2])

"""Options that commands of several rooms have, and how such options are read."""

import re
from pathlib import Path
from typing import Annotated

import typer

from hat.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per run of the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
NumIds = Annotated[int | None, typer.Option(min=2, help="Rank so many identities of the data set only.")]
Record = Annotated[Path | None, typer.Option(help="Append the figures to this Markdown file.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that are missing or unreadable.")]

GrayBits = Annotated[int | None, typer.Option(min=8, max=16, help="Bits that 16-bit gray images really use: 10, 12, 14.")]
"""For `hat.data.images.set_gray_bits`: whatever reads images from files needs it where cameras of fewer bits wrote them."""


def parse_image_size(text: str, option: str) -> tuple[int, int]:
    """Return (height, width) of an option such as ``256x128``; the option's name is for the message of the `UsageError`."""
    match = re.fullmatch(r"(\d{1,5})[xX×,](\d{1,5})", text.strip())
    if match is None:
        raise UsageError(f"{option} is height x width in pixels, like 256x128, got {text!r}")
    return int(match[1]), int(match[2])

"""Options that commands of several rooms have."""

from typing import Annotated

import typer

GrayBits = Annotated[int | None, typer.Option(min=8, max=16, help="Bits that 16-bit gray images really use: 10, 12, 14.")]
"""For `hat.data.images.set_gray_bits`: whatever reads images from files needs it where cameras of fewer bits wrote them."""

"""Plots and pictures as files: what can be refused is refused before the work that they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hat.errors import MissingExtraError, UsageError, WorkError
from hat.io.atomic_output import atomic_output, check_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image


_SUFFIXES = (".png", ".svg", ".pdf")


def require_matplotlib(purpose: str) -> None:
    """Make sure that matplotlib is there; ``purpose`` ends the sentence "... is needed for"."""
    try:
        import matplotlib  # noqa: F401 - what is checked is that it is there
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", purpose) from None


def check_plot_path(path: Path | None, purpose: str, *, overwrite: bool) -> None:
    """Refuse before the work a plot that `save_picture` could not write after it; see `check_picture_path`."""
    if path is None:
        return
    require_matplotlib(purpose)
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{path}: the ending must name a picture format: .png, .svg or .pdf")
    check_output(path, overwrite=overwrite)


def check_picture_path(path: Path | None, purpose: str | None = None, *, overwrite: bool) -> None:
    """Refuse before the work a picture that `save_picture` could not write after it; a path of None is no picture.

    ``purpose`` is `require_matplotlib`'s, None where matplotlib is not needed.
    """
    from PIL import Image

    if path is None:
        return
    if purpose is not None:
        require_matplotlib(purpose)
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise UsageError(f"{path}: the ending must name a picture format, such as .png")
    check_output(path, overwrite=overwrite)


def save_picture(picture: Image.Image | Figure, path: Path, *, overwrite: bool = True) -> None:
    """Write a picture or a plot in the format that its path ends with, whole or not at all."""
    from PIL import Image

    with atomic_output(path, overwrite=overwrite) as temporary:
        try:
            (picture.save if isinstance(picture, Image.Image) else picture.savefig)(temporary)
        except ValueError as error:
            raise WorkError(f"{path}: cannot be written: {error}") from None


def style_axes(axes: Axes) -> None:
    """Give axes the look that all plots here have: a pale grid behind the data, and no frame above and to the right."""
    axes.grid(True, color="#e4e7ed", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

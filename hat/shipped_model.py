"""The small trained model that comes with the package, where this installation has it."""

from pathlib import Path

SHIPPED_NAME = "hat_mobilenet_v2_market1501"
"""Folder of the model in ``hat/models``."""

_FILES = ("model.safetensors", "config.json", "MODEL_CARD.md")


def shipped_model() -> Path | None:
    """Folder of the checkpoint that comes with the package; None where its files are not there."""
    folder = Path(__file__).resolve().parent / "models" / SHIPPED_NAME
    return folder if all((folder / name).is_file() for name in _FILES) else None

"""Importing torchvision also where its compiled operators do not load.

torchvision registers shapes for its operators ``nms`` and ``qnms`` when it is imported. Beside a torch of another build (a CPU
torch and the registry's torchvision; a vendor's torch on a Jetson) the compiled operators are absent and that registration ends
the import with "operator torchvision::nms does not exist". Models, transforms and data sets need none of these operators, so it
is enough to declare the two schemas and import again. The operators themselves, and torchvision's image decoders, stay absent.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []


def import_torchvision(submodule: str = "") -> ModuleType:
    """Import torchvision, or a submodule of it such as ``"models"``.

    Raises:
        ImportError: torchvision is not installed, or fails for another reason.
    """
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _declared:
            raise ImportError(f"torchvision cannot be imported: {error}") from error
    for loaded in [key for key in sys.modules if key == "torchvision" or key.startswith("torchvision.")]:
        del sys.modules[loaded]
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)  # the declarations live as long as this object
    return importlib.import_module(name)

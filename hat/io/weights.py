"""Reading files of weights, and starting a backbone from ImageNet's.

Nothing is ever unpickled: ``.safetensors`` files hold tensors alone, and torch's own files are read with ``weights_only=True``
or refused. A file that does not fit is an error that names what differs; there is no fallback to other weights.
"""

from __future__ import annotations

import pickle
import urllib.error
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hat.errors import MissingExtraError, WeightsError
from hat.model import HAT
from hat.model.tfc import current_name
from hat.torchvision_import import import_torchvision

__all__ = ["load_backbone_weights", "load_state", "read_state_file"]


def read_state_file(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict: a ``.safetensors`` file, or one written by ``torch.save``.

    Args:
        path: The file. A state dict may be wrapped under ``state_dict``, ``model`` or ``model_state_dict``, and its names may
            begin with ``module.``, as data-parallel training writes them.

    Returns:
        Name -> tensor, on the CPU.

    Raises:
        WeightsError: The file is missing, is damaged, holds anything but tensors, or would have to be unpickled.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickle protocols; what cannot be read raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} is damaged, or holds Python objects besides tensors and is refused, since unpickling can run code: "
            "save the model's state_dict() alone"
        ) from None
    except (SafetensorError, EOFError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        # torch's reader of its oldest format trips over foreign bytes with whatever they happen to provoke.
        raise WeightsError(f"{path} is damaged or no file of weights: {_first_line(error)}") from None
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict: expected names and tensors")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a state dict into a module, every tensor of which must be there with its shape; other float types are converted.

    Args:
        module: What to load into; unchanged when an error is raised.
        state: Name -> tensor.
        source: What the state is, for the error message.

    Raises:
        WeightsError: Names or shapes differ, or a value is not finite.
    """
    state = {current_name(name): value for name, value in state.items()}
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    wrong = [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or wrong:
        parts = [
            _some("missing", missing),
            _some("not part of the model", unexpected),
            _some("of another shape", wrong),
        ]
        raise WeightsError(f"{source} does not fit: {'; '.join(part for part in parts if part)}")
    broken = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise WeightsError(f"{source} holds values that are not finite: {_some('in', broken)}")
    module.load_state_dict(state, strict=False)  # names were compared above; num_batches_tracked may be absent


def load_backbone_weights(model: HAT, source: str) -> str:
    """Start a model's backbone from ImageNet weights.

    Args:
        model: The model; its backbone alone is changed.
        source: ``"none"`` leaves the random weights; ``"torchvision"`` and ``"timm"`` download or use those libraries' weights;
            anything else is the path of a file with the library's names for this backbone.

    Returns:
        One sentence that says what was loaded.

    Raises:
        WeightsError: The file is missing or does not fit, or the download failed.
        MissingExtraError: ``"timm"`` without timm.
    """
    if source == "none":
        return "backbone starts from random weights"
    if source == "torchvision":
        state, described = _torchvision_state(model.mfe.library_name), "torchvision's ImageNet weights (IMAGENET1K_V1)"
    elif source == "timm":
        state, described = _timm_state(model.mfe.library_name), "timm's weights"
    else:
        state, described = read_state_file(source), str(source)
    backbone = model.mfe
    own = backbone.state_dict()
    renamed = {_own_name(name, backbone.weight_prefix, own): value for name, value in state.items()}
    # The whole model of the library has layers above the last level, classifier included. Only those may be left over:
    # whatever else is, a ResNet-101's further blocks for example, shows that the file is another model's.
    above = {_own_name(name, backbone.weight_prefix, own) for name in _library_names(model.config.backbone.name)} - set(own)
    # Counters of batches say nothing about the weights, and converted files hold them in several shapes.
    kept = {name: value for name, value in renamed.items() if name not in above and not name.endswith("num_batches_tracked")}
    load_state(backbone, kept, f"{described} for the backbone {model.config.backbone.name}")
    return f"backbone starts from {described}: {len(kept)} tensors"


def _own_name(name: str, prefix: str, own: Mapping[str, Tensor]) -> str:
    """A tensor's name in our backbone: without torchvision's prefix, or in timm's flattened form."""
    for candidate in (name.removeprefix(prefix), f"features.{name}", "features." + name.replace(".", "_", 1)):
        if candidate in own:
            return candidate
    return name


def _library_names(backbone: str) -> set[str]:
    """Names of all tensors of the whole model in its library."""
    models = import_torchvision("models")
    with torch.device("meta"):
        if backbone.startswith("timm/"):
            import timm

            whole = timm.create_model(backbone.removeprefix("timm/"), pretrained=False)
        else:
            options = {"init_weights": False} if backbone == "googlenet" else {}
            whole = getattr(models, backbone)(weights=None, **options)
    return set(whole.state_dict())


def _torchvision_state(name: str) -> dict[str, Tensor]:
    models = import_torchvision("models")
    try:
        weights = models.get_model_weights(name).IMAGENET1K_V1
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except ValueError:
        raise WeightsError(f"torchvision has no model {name}, so it has no weights for it; give a file instead") from None
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise WeightsError(f"torchvision's weights for {name} could not be downloaded: {_first_line(error)}") from None
    return state


def _timm_state(name: str) -> dict[str, Tensor]:
    import_torchvision()
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", "timm", "timm's weights") from None
    try:
        state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"timm's weights for {name} could not be had: {_first_line(error)}") from None
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _some(label: str, names: Iterable[str], most: int = 4) -> str:
    """ "label: a, b, c and 7 more", or nothing where there are no names."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{label}: {', '.join(names[:most])}{rest}" if names else ""

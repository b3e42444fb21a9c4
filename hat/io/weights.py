"""Reading files of weights, and starting a backbone from ImageNet's.

No code of a file ever runs: ``.safetensors`` files hold tensors alone, and torch's own files are read with
``weights_only=True``. Where they hold other objects, such as whole models, a reader of our own takes the tensors out: a pickle
is a program that may call whatever it names, and here it can name a dozen things that make tensors and containers; every other
name stands for an `UnknownObject`, which takes any arguments and state and does nothing with them. A pickled module keeps its
parameters, buffers and children in its state, so that its tensors are found although its class is unknown.

A file that does not fit is an error that names what differs; there is no fallback to other weights.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import urllib.error
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hat.errors import MissingExtraError, WeightsError, first_line
from hat.io.artifact import placeholder_reason
from hat.model import HAT
from hat.model.backbone import import_torchvision
from hat.model.dsa import current_name

_DAMAGE = (
    *(SafetensorError, pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, LookupError, TypeError),
    *(AttributeError, ArithmeticError, AssertionError, MemoryError, struct.error),
)
"""Exceptions that torch's readers raise on foreign bytes."""

_WRAPPERS = ("state_dict", "model_state_dict", "net_dict", "model", "net", "network")
_MAX_WRAPPERS = 4


def read_state_file(path: str | Path) -> dict[str, Tensor]:
    """Read name -> tensor, on the CPU, from a ``.safetensors`` file or one written by ``torch.save``.

    That is a state dict, which may be wrapped under ``state_dict``, ``model``, ``net_dict`` and the like, or a whole pickled
    module of any class. What is none, or damaged, is a `WeightsError`.
    """
    return state_of(read_weights_file(path), path)


def read_weights_file(path: str | os.PathLike[str]) -> Any:
    """Read what a file of weights holds, unwrapped: names and tensors, or an `UnknownObject` for a whole pickled module."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    if reason := placeholder_reason(path):
        raise WeightsError(reason)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual protocols and absent sources; what cannot be read raises
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                # Everything but tensors and plain containers becomes an `UnknownObject`.
                content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RestrictedPickle)
    except _DAMAGE as error:
        raise WeightsError(f"{path} is damaged or no file of weights: {first_line(error)}") from None
    for _ in range(_MAX_WRAPPERS):
        if isinstance(content, Mapping):
            inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping | UnknownObject)]
            content = inner[0] if inner else content
    return content


def state_of(content: Any, source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the names and tensors of what `read_weights_file` read, without the ``module.`` of data-parallel training."""
    if isinstance(content, UnknownObject):
        content = dict(_named_tensors(content))
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{source} holds no state dict: expected names and tensors")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a state dict into a module, every tensor of which must be there with its shape; other float types are converted.

    Where names or shapes differ, or a value is not finite, a `WeightsError` names them, and the module is as it was.
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
        parts = [_some("missing", missing), _some("not part of the model", unexpected), _some("of another shape", wrong)]
        raise WeightsError(f"{source} does not fit: {'; '.join(part for part in parts if part)}")
    broken = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise WeightsError(f"{source} holds values that are not finite: {_some('in', broken)}")
    module.load_state_dict(state, strict=False)  # names were compared above; num_batches_tracked may be absent


def load_backbone_weights(model: HAT, source: str) -> str:
    """Start a model's backbone from ImageNet weights; return one sentence that says what was loaded.

    ``"none"`` leaves the random weights; ``"torchvision"`` and ``"timm"`` download or use those libraries' weights; any other
    source is the path of a file with the library's names for this backbone.
    """
    backbone = model.mfe
    if source == "none":
        return "backbone starts from random weights"
    if source == "torchvision":
        state, described = _torchvision_state(backbone.library_name), "torchvision's ImageNet weights (IMAGENET1K_V1)"
    elif source == "timm":
        state, described = _timm_state(backbone.library_name), "timm's weights"
    else:
        state, described = read_state_file(source), source
    own = backbone.state_dict()
    state, outside = _inside_common_prefix(state, backbone.weight_prefix, own)
    renamed = {_own_name(name, backbone.weight_prefix, own): value for name, value in state.items()}
    # Heads and layers above the last level may be left over. What belongs to a layer that is here, a ResNet-101's blocks
    # for example, shows that the file is another model's.
    layers = {_layer(name) for name in own}
    heads = [name for name in renamed if name not in own and _layer(name) not in layers]
    # Counters of batches say nothing about the weights, and converted files hold them in several shapes.
    loaded = {name: value for name, value in renamed.items() if name not in heads and not name.endswith("num_batches_tracked")}
    load_state(backbone, loaded, f"{described} for the backbone {model.config.backbone.name}")
    left = _some("; left out", [*outside, *heads])
    return f"backbone starts from {described}: {len(loaded)} tensors{left}"


def _inside_common_prefix(
    state: Mapping[str, Tensor], weight_prefix: str, own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Strip what other projects put before a backbone's names (``backbone.``, ``base.``, ``encoder_q.``); name what is outside.

    The prefix is the one under which most names are the backbone's; of several as good, the first in the file.
    """
    prefixes = {"": 0}
    for name in state:
        parts = name.split(".")
        prefixes.update({".".join(parts[:count]) + ".": 0 for count in range(1, min(4, len(parts)))})
    for prefix in prefixes:
        names = (name.removeprefix(prefix) for name in state if name.startswith(prefix))
        prefixes[prefix] = sum(_own_name(name, weight_prefix, own) in own for name in names)
    best = max(prefixes, key=lambda prefix: prefixes[prefix])
    inside = {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}
    return inside, [name for name in state if not name.startswith(best)]


def _own_name(name: str, prefix: str, own: Mapping[str, Tensor]) -> str:
    """Return a tensor's name in our backbone: without torchvision's prefix, or in timm's flattened form."""
    for candidate in (name.removeprefix(prefix), f"features.{name}", "features." + name.replace(".", "_", 1)):
        if candidate in own:
            return candidate
    return name


def _layer(name: str) -> str:
    return name.removeprefix("features.").partition(".")[0]


def _torchvision_state(name: str) -> dict[str, Tensor]:
    models = import_torchvision("models")
    try:
        weights = models.get_model_weights(name).IMAGENET1K_V1
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except ValueError:
        raise WeightsError(f"torchvision has no model {name}, so it has no weights for it; give a file instead") from None
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise WeightsError(f"torchvision's weights for {name} could not be downloaded: {first_line(error)}") from None
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
        raise WeightsError(f"timm's weights for {name} could not be had: {first_line(error)}") from None
    return state


def _some(label: str, names: list[str]) -> str:
    """Write "label: a, b, c, d and 7 more", or nothing where there are no names."""
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{label}: {', '.join(names[:4])}{rest}" if names else ""


class UnknownObject:
    """An object of a class that is not ours to run: its state and nothing else."""

    dump_patches = False  # torch asks classes of modules in its oldest format for this

    def __new__(cls, *_arguments: Any, **_options: Any) -> UnknownObject:
        """Make one whatever it is called with."""
        return object.__new__(cls)

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        pass

    def __call__(self, *_arguments: Any, **_options: Any) -> UnknownObject:
        """Stand in for what the object would have made."""
        return UnknownObject()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _item: Any) -> None:
        """Take an item of an unknown list."""

    def extend(self, _items: Any) -> None:
        """Take items of an unknown list."""


class _Call:
    """A function that a pickle may call and whose attributes it cannot reach to change them."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


_FUNCTIONS = {
    name: getattr(torch._utils, name)
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")
}
_TYPES = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
}
_BUILTINS = {kind.__name__: kind for kind in (set, frozenset, list, dict, tuple, int, float, complex, bool, str, slice)}
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in _FUNCTIONS:
            return _Call(_FUNCTIONS[name])
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return _BUILTINS[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = _TYPES.get((module, name))
        return type("UnknownObject", (UnknownObject,), {}) if known is None else known


class _RestrictedPickle:
    """Replacement of the module `pickle` for `torch.load`."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: io.BufferedIOBase, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def submodule_attribute(module: Any, path: str, name: str) -> Any:
    """Return an attribute of a module inside a pickled module, None where either is not there."""
    for part in path.split("."):
        children = vars(module).get("_modules") if isinstance(module, UnknownObject) else None
        module = children.get(part) if isinstance(children, Mapping) else None
    return vars(module).get(name) if isinstance(module, UnknownObject) else None


def _named_tensors(module: UnknownObject, prefix: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a pickled module under the names that its ``state_dict()`` would give them."""
    if id(module) in above:  # no module holds itself; a file made to harm may say so
        return
    state = vars(module)
    skipped = state.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        entries = state.get(kind)
        for name, value in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(value, Tensor) and not (kind == "_buffers" and isinstance(skipped, set) and name in skipped):
                yield f"{prefix}{name}", value.detach()
    children = state.get("_modules")
    for name, child in children.items() if isinstance(children, Mapping) else ():
        if isinstance(child, UnknownObject):
            yield from _named_tensors(child, f"{prefix}{name}.", (*above, id(module)))

"""Files of `torch.save` with Python objects besides tensors, such as whole models, read without running any of their code.

A pickle is a program that may call whatever it names. Here it can name a dozen things that make tensors and containers; every
other name stands for an `UnknownObject`, which takes any arguments and state and does nothing with them. A pickled module keeps
its parameters, buffers and children in its state, so that its tensors are found although its class is unknown.
"""

from __future__ import annotations

import collections
import io
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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
    """What `torch.load` takes for the module `pickle`."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: io.BufferedIOBase, **options: Any) -> Any:
        return _Unpickler(file, **options).load()


def read_foreign_pickle(path: Path) -> Any:
    """Read a file of `torch.save`, its tensors on the CPU and everything but tensors and plain containers an `UnknownObject`.

    Raises:
        pickle.UnpicklingError: It is damaged; torch's reader trips over foreign bytes with whatever they happen to provoke, so
            that any of `hat.io.weights.DAMAGE` may come.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sources of classes that are not there
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RestrictedPickle)


def named_tensors(module: UnknownObject) -> dict[str, Tensor]:
    """Return the tensors of a pickled module under the names that its ``state_dict()`` would give them."""
    return dict(_walk(module, "", ()))


def submodule_attribute(module: Any, path: str, name: str) -> Any:
    """Return an attribute of a module inside a pickled module, None where either is not there."""
    for part in path.split("."):
        children = vars(module).get("_modules") if isinstance(module, UnknownObject) else None
        module = children.get(part) if isinstance(children, Mapping) else None
    return vars(module).get(name) if isinstance(module, UnknownObject) else None


def _walk(module: UnknownObject, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
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
            yield from _walk(child, f"{prefix}{name}.", (*above, id(module)))

"""Configuration as frozen dataclasses: reading, checking, overriding and writing them.

Every configuration of this package (model, preprocessing, training) is a frozen dataclass made by `config_dataclass`, which is
pydantic's dataclass with unknown keys refused. This file adds what a command line needs: overrides by dotted path
(``optim.lr=3e-4``), errors that name the full path of the wrong key, and a plain dictionary for YAML and JSON.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticSerializationError
from typing_extensions import dataclass_transform

from hat.errors import CheckpointError, ConfigError, unknown_name

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config_dataclass(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only dataclass that checks the types of its fields and refuses unknown keys."""
    decorate = cast(
        Callable[[type[T]], type[T]],
        pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", validate_default=True)),
    )
    return decorate(cls)


def config_from_dict(cls: type[T], data: Mapping[str, Any], *, where: str = "") -> T:
    """Build a configuration from plain data, or raise a `ConfigError` that names every mistake by its full path.

    ``where`` says in the message what the data is: a file name, for example.
    """
    try:
        return TypeAdapter(cls).validate_python(dict(data))
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ConfigError(prefix + "; ".join(_describe(item, cls) for item in error.errors())) from None


def metadata_from_dict(cls: type[T], content: Mapping[str, Any], *, newest: int, source: str) -> T:
    """Build an object with a field ``format_version`` from plain data, read from ``source``.

    Raises a `CheckpointError` where the version is above ``newest``, or a field is unknown, missing or wrong.
    """
    version = content.get("format_version")
    if isinstance(version, int) and version > newest:
        raise CheckpointError(f"{source} is of format {version}, this version reads up to {newest}: update hat-reid")
    try:
        return config_from_dict(cls, content, where=source)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def config_to_dict(config: Any) -> dict[str, Any]:
    """Turn a configuration into plain dictionaries, lists and scalars that `config_from_dict` reads back to an equal one."""
    try:
        return cast(dict[str, Any], TypeAdapter(type(config)).dump_python(config, mode="json"))
    except PydanticSerializationError as error:
        raise ConfigError(f"{type(config).__name__} holds what is no plain number, text, list or dictionary: {error}") from None


def config_to_yaml(config: Any) -> str:
    """Write a configuration as YAML, fields in the order in which they are declared."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``a.b=value`` assignments into nested dictionaries; values are read as YAML, and ``3e-4`` as a number."""
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"expected an override like optim.lr=3e-4, got {assignment!r}")
        node = tree
        for key in keys[:-1]:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise ConfigError(f"{path.strip()} overrides inside {key}, which another override set to a value")
            node = child
        node[keys[-1]] = _parse_value(text, path)
    return tree


def apply_overrides(config: T, overrides: Mapping[str, Any], *, where: str = "") -> T:
    """Return a copy of a configuration in which the leaves named by nested ``overrides`` are replaced."""
    return config_from_dict(type(config), merge(config_to_dict(config), overrides), where=where)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested dictionaries of which the leaves named by ``changes`` are replaced; neither argument is changed."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name and both values of every field in which two nested configurations, as plain data, differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif before != now:
        yield path, before, now


def _parse_value(text: str, path: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {text!r} is not a YAML value ({error.__class__.__name__})") from None
    if isinstance(value, str):
        # YAML 1.1 wants a dot in the mantissa, so it reads 3e-4 as text; everybody who types it means a number.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _describe(item: Any, cls: type[Any]) -> str:
    """Return one sentence for one of pydantic's errors: full path, what was expected and got, and the nearest known key."""
    path = ".".join(str(part) for part in item["loc"]) or cls.__name__
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return unknown_name(f"key {path}", str(item["loc"][-1]), _fields_at(cls, item["loc"][:-1]))
    if item["type"] == "missing":
        return f"{path} is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if item["type"] in ("value_error", "assertion_error"):
        return f"{path}: {message}"
    return f"{path}: {message}, got {item['input']!r}"


def _fields_at(cls: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return names of the fields of the nested dataclass that a path leads to; empty where it leads to none."""
    for part in location:
        cls = get_type_hints(cls).get(str(part)) if dataclasses.is_dataclass(cls) else None
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []

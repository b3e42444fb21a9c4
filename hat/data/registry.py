"""Data sets by name: the known ones, their readers, and the detection of an unnamed folder."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from hat.data.csv_table import is_csv_table, read_csv_table
from hat.data.datasets import PUBLISHED_COUNTS, ReIDDataset
from hat.data.folders import find_camera_folders, is_identity_folders, read_camera_folders, read_identity_folders
from hat.data.labels import plain_name
from hat.data.listed_benchmarks import find_cuhk03_np, find_msmt17, is_mars, read_cuhk03_np, read_mars, read_msmt17
from hat.data.market import is_market_benchmark, is_market_style, is_synth, read_market_benchmark, read_market_style, read_synth
from hat.errors import DataError, unknown_name


class _Reader(NamedTuple):
    """Reader and detector of one kind of data set."""

    read: Callable[..., ReIDDataset]
    detect: Callable[..., object]  # true where it lies in a folder
    aliases: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()  # arguments of both functions beside the folder, where they know several data sets
    options: tuple[str, ...] = ()  # of `load_dataset`, which of them the reader takes


# By registered name, in the order in which an unnamed folder is asked: what comes first would pass for what comes later.
_READERS: dict[str, _Reader] = {
    "market1501": _Reader(read_market_benchmark, is_market_benchmark, ("market", "market1501v150915"), ("market1501",)),
    "dukemtmc-reid": _Reader(read_market_benchmark, is_market_benchmark, ("dukemtmc", "duke"), ("dukemtmc-reid",)),
    "cuhk03-np-labeled": _Reader(
        read_cuhk03_np, find_cuhk03_np, ("cuhk03nplabelled", "cuhk03labeled", "cuhk03labelled"), ("labeled",)
    ),
    "cuhk03-np-detected": _Reader(read_cuhk03_np, find_cuhk03_np, ("cuhk03detected",), ("detected",)),
    "msmt17": _Reader(read_msmt17, find_msmt17, ("msmt17v1", "msmt17v2")),
    "mars": _Reader(read_mars, is_mars),
    "synth": _Reader(read_synth, is_synth, ("synthetic",)),
    "market-style": _Reader(read_market_style, is_market_style),
    "camera-folders": _Reader(
        read_camera_folders, find_camera_folders, ("viper", "prid", "prid2011", "grid"), options=("split_seed",)
    ),
    "folder": _Reader(read_identity_folders, is_identity_folders, options=("split_seed",)),
    "csv": _Reader(read_csv_table, is_csv_table, options=("skip_missing",)),
}
_BY_PLAIN_NAME = {plain_name(alias): name for name, reader in _READERS.items() for alias in (name, *reader.aliases)}


def list_datasets() -> tuple[str, ...]:
    """Return the registered names, the benchmarks first."""
    return tuple(_READERS)


def load_dataset(name: str, root: str | PathLike[str], *, split_seed: int = 0, skip_missing: bool = False) -> ReIDDataset:
    """Read a data set; its `notes` tell how its counts compare with the published ones, and what was left out.

    Args:
        name: A name of `list_datasets`. Case, hyphens and underscores do not matter, and common spellings such as ``duke`` are
            known.
        root: Where it lies: its official folder, or the folder that holds it; for ``csv`` the file. ``~`` is the home folder.
        split_seed: Draws another split, where a layout has none of its own: a folder for each identity or camera.
        skip_missing: Leave out what a table lists and is not there, instead of raising.

    Raises:
        DataError: The name is unknown, or the data set is not there.
    """
    reader = _READERS[_registered(name)]
    options = {"split_seed": split_seed, "skip_missing": skip_missing}
    return reader.read(_expand(root), *reader.arguments, **{key: options[key] for key in reader.options})


def detect_dataset(root: str | PathLike[str]) -> str:
    """Return the name, of `list_datasets`, of the kind of data set that lies in a folder, zip file or CSV file.

    Benchmarks are recognized by their official names or files; then come generated data sets, file names, and folders' names.

    Raises:
        DataError: There is nothing there, nothing that is known, or more than one benchmark.
    """
    path = _expand(root)
    if is_csv_table(path):
        return "csv"
    found: list[str] = []
    for name, reader in _READERS.items():
        if not (found and name not in PUBLISHED_COUNTS) and reader.detect(path, *reader.arguments):
            found.append(name)
    if len(found) > 1:
        raise DataError(f"{path}: holds {' and '.join(found)}; name the one that is meant, like {found[0]}={root}")
    if found:
        return found[0]
    benchmarks = ", ".join(PUBLISHED_COUNTS)
    raise DataError(
        f"{path}: no known data set was found; expected the official folder of {benchmarks} or mars, Market-style "
        "names in train/, query/ and gallery/, a folder for each identity or for each camera, or a CSV file"
    )


def open_dataset(spec: str | PathLike[str], *, split_seed: int = 0, skip_missing: bool = False) -> ReIDDataset:
    """Read a data set named as on the command line, with the options of `load_dataset`.

    Args:
        spec: ``DIR`` alone, whose kind is detected; ``KIND=DIR`` with a name of `list_datasets`; or ``NAME=DIR`` with any other
            name, which is what the data set is then called. A path that has a ``=`` in it and exists is a path.

    Raises:
        DataError: The name is unknown, the path is missing, or the data set is not there.
    """
    text = str(spec)
    name, equals, root = text.partition("=")
    load = partial(load_dataset, split_seed=split_seed, skip_missing=skip_missing)
    if equals and plain_name(name) in _BY_PLAIN_NAME:
        if not root:
            raise DataError(f"{text!r}: expected NAME=DIR, got no folder after the =")
        return load(name, root)
    path, given = _expand(text), ""
    if equals and root and not path.exists():
        if not _expand(root).exists() or _nearest(name):
            _registered(name)
        path, given = _expand(root), name.strip()
    dataset = load(detect_dataset(path), path)
    # What people made themselves is called as they call it; two tables would both be "csv" otherwise.
    if not given and dataset.name in ("csv", "folder", "market-style", "camera-folders"):
        given = path.resolve().stem if path.is_file() else path.resolve().name
    return replace(dataset, name=given or dataset.name)


def _registered(name: str) -> str:
    known = _BY_PLAIN_NAME.get(plain_name(name))
    if known is not None:
        return known
    raise DataError(unknown_name(f"data set {name!r}", _nearest(name) or name, _READERS))  # which knows aliases too


def _nearest(name: str) -> str | None:
    """Return the registered name that somebody who typed this may have meant."""
    near = difflib.get_close_matches(plain_name(name), _BY_PLAIN_NAME, n=1, cutoff=0.7)
    return _BY_PLAIN_NAME[near[0]] if near else None


def _expand(root: str | PathLike[str]) -> Path:
    try:
        return Path(root).expanduser()
    except RuntimeError:
        raise DataError(f"{root}: the home folder of that user is unknown") from None

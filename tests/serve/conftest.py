"""What these tests share: drawn people with a small model, the command line in this process, and galleries of given rows."""

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import pytest
from enrolled_people import make_world
from gallery_cases import BINDING, new_record, open_small

from hat.cli import main
from hat.data.images import set_gray_bits
from hat.embedder import Embedder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with ``people`` and a ``model``, which tests read and leave as it is."""
    return make_world(tmp_path_factory.mktemp("enrolled") / "world")


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


_open_once = cache(Embedder.open)


@pytest.fixture
def call(monkeypatch, capsys):
    """`hat ARGUMENTS` in this process, where a model is opened once: its exit code, and what it wrote."""
    monkeypatch.setattr(Embedder, "open", _open_once)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hat", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            set_gray_bits(None)  # what a command sets is its process's
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Answer(end.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def run(call):
    """The same; a test file may leave the first words out."""
    return call


@pytest.fixture
def gallery_of(tmp_path):
    """Make a gallery of some rows, whose records have one of each label's values."""
    with ExitStack() as stack:
        made = []

        def make(rows, **labels):
            binding = replace(BINDING, embed_dim=rows.shape[1])
            made.append(stack.enter_context(open_small(tmp_path / f"{len(made)}.gallery", binding=binding)))
            records = [{name: values[n] for name, values in labels.items()} for n in range(len(rows))]
            made[-1].add(rows, [new_record(n, **record) for n, record in enumerate(records)])
            return made[-1]

        yield make

"""What the tests of the commands share: drawn people with a small model, and the command line in this process."""

import pytest
from enrolled_people import caller, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with ``people`` and a ``model``, which tests read and leave as it is."""
    return make_world(tmp_path_factory.mktemp("enrolled") / "world")


@pytest.fixture
def call(monkeypatch, capsys):
    """`hat ARGUMENTS` in this process."""
    return caller(monkeypatch, capsys)


@pytest.fixture
def run(call):
    """The same; a test file may leave the first words out."""
    return call

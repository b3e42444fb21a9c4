"""Shared by all tests: quiet threads, the real data set where it is, and small models."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

# Several threads on small tensors cost more than they give, and tests must not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell without job control starts what it puts into the background deaf to Ctrl-C, and so would be all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """Hide a GPU unless tests that need one were asked for: the others compare with figures of a CPU."""
    if "gpu" not in config.getoption("markexpr", "").replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def hat_data():
    """The folder named by HAT_DATA, which holds the real Market-1501; the test is skipped where it is unset."""
    folder = os.environ.get("HAT_DATA")
    if not folder:
        pytest.skip("HAT_DATA is unset: it names a folder with Market-1501-v15.09.15/ or its two zips")
    return Path(folder)


@pytest.fixture
def tiny_model():
    """A HAT with every part of the large one and a hundredth of its size, in evaluation mode; 64 x 32 images."""
    from tiny_hat import lively_hat

    return lively_hat()


@pytest.fixture
def run_hat(monkeypatch, capsys):
    """The command line in this process, which spares its start: what it answers with is a finished process's."""

    def run(*arguments):
        from hat.cli import main

        monkeypatch.setattr(sys, "argv", ["hat", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        return SimpleNamespace(returncode=done.value.code or 0, stdout=said.out, stderr=said.err)

    return run


@pytest.fixture
def call(run_hat):
    """The same, as exit code, stdout and stderr."""

    def run(*arguments):
        done = run_hat(*arguments)
        return done.returncode, done.stdout, done.stderr

    return run

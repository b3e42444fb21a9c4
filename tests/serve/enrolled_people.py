"""What the tests of the commands share: drawn people, a small model, and the command line in this process."""

import json
import sys
from dataclasses import dataclass

import pytest
from tiny_hat import lively_hat

import hat
from hat.cli import main
from hat.data.images import set_gray_bits
from hat.data.synth import generate_dataset


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def shared_world(tmp_path_factory):
    """One world for all test files; they read it and leave it as it is."""
    folder = tmp_path_factory.getbasetemp() / "enrolled-people"
    return folder if folder.exists() else make_world(folder)


def make_world(folder):
    """A data set of six drawn people (5 in query and gallery) seen by two cameras, and a checkpoint that knows nobody."""
    import torch

    torch.set_num_threads(1)
    folder.mkdir()
    generate_dataset(
        folder / "people",
        num_ids=6,
        num_cameras=2,
        images_per_camera=2,
        num_train_ids=1,
        num_distractors=2,
        size=(64, 32),
        num_workers=1,
    )
    save_model(folder / "model", seed=0)
    return folder


def save_model(folder, *, seed):
    hat.save_checkpoint(lively_hat(seed), folder)
    return folder


def caller(monkeypatch, capsys):
    """`hat ARGUMENTS` in this process: its exit code, and what it wrote."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hat", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            set_gray_bits(None)  # what a command sets is its process's
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Answer(end.value.code or 0, captured.out, captured.err)

    return call

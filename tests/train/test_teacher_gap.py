"""The script that measures how far students stand from their teacher, beside the same least squares by NumPy."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hat
from hat.data import open_dataset

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "teacher_gap.py"
NUM_FIT = 16


class Glance:
    """A model that looks at the colors of eight patches; untrained networks embed all people alike."""

    def __init__(self, seed):
        self.weights = np.random.default_rng(seed).standard_normal((24, 8))

    @classmethod
    def open(cls, path, **options):
        return cls(int(path))

    def embed(self, images):
        opened = [Image.open(image) if isinstance(image, str) else image for image in images]
        patches = np.stack([np.asarray(image.resize((2, 4))).reshape(24) / 128 - 1 for image in opened])
        rows = np.tanh(patches @ self.weights)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def gaps(market_folder, monkeypatch, capsys):
    """Runs the script on a teacher and two students of it, itself and a stranger; the table's cells by row."""
    monkeypatch.setattr(hat, "Embedder", Glance)
    monkeypatch.syspath_prepend(SCRIPT.parent)

    def run(*options):
        arguments = ["0", "1", "--teacher", "0", "--data", str(market_folder), "--num-fit", str(NUM_FIT), *options]
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
        return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]

    return run


def expected_gap(fit, others):
    """The same by stacking the penalty's rows below the images': one ordinary least squares problem."""
    target, rows = (Glance(seed).embed(fit).astype(np.float64) for seed in (0, 1))
    rows = np.hstack([rows, np.ones((len(rows), 1))])
    penalty = np.sqrt(0.1 * len(rows) / rows.shape[1]) * np.eye(rows.shape[1])
    stacked = np.vstack([target, np.zeros((len(penalty), target.shape[1]))])
    solution, *_ = np.linalg.lstsq(np.vstack([rows, penalty]), stacked, rcond=None)
    student = np.hstack([Glance(1).embed(others), np.ones((len(others), 1))]) @ solution
    teacher = Glance(0).embed(others)
    cosines = (student * teacher).sum(1) / np.linalg.norm(student, axis=1) / np.linalg.norm(teacher, axis=1)
    return 1 - cosines.mean()


def test_a_teacher_is_nearest_to_itself_and_a_stranger_as_far_as_least_squares_leaves_it(gaps, market_folder):
    itself, stranger = gaps()
    kinds = ["tiny, training", "tiny, query", "tiny, query, colors changed"]
    assert list(itself) == ["student", *kinds] and (itself["student"], stranger["student"]) == ("`0`", "`1`")
    for kind in kinds:
        assert 0 <= float(itself[kind]) < float(stranger[kind]) < 2
    data = open_dataset(market_folder)
    order = np.random.default_rng(0).permutation(len(data.train))
    fit, others = ([data.train.paths[place] for place in part] for part in (order[:NUM_FIT], order[NUM_FIT:]))
    assert float(stranger["tiny, training"]) == pytest.approx(expected_gap(fit, others), abs=6e-4)
    assert float(stranger["tiny, query"]) == pytest.approx(expected_gap(fit, data.query.paths), abs=6e-4)


def test_changed_colors_are_the_seeds(gaps):
    kind = "tiny, query, colors changed"
    first, again, other = (gaps("--seed", seed)[1][kind] for seed in ("3", "3", "4"))
    assert first == again != other


def test_all_images_to_fit_on_leave_none_to_measure(gaps, capsys):
    with pytest.raises(SystemExit):
        gaps("--num-fit", "1000")
    assert "lower --num-fit" in capsys.readouterr().err

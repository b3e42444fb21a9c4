"""The script that makes new people of a training split, on people who are plain gray: one light, one dark."""

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hat.data import open_dataset

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recombined_people.py"
LIGHT, DARK = 190, 40


@pytest.fixture
def people(tmp_path):
    """Two identities in two cameras, the second of them twice in one, each of one gray."""
    rows = [("path", "pid", "camid", "split")]
    for pid, gray, cameras in ((7, LIGHT, (1, 2)), (9, DARK, (1, 2, 2))):
        for place, camera in enumerate(cameras):
            name = f"{pid}_{place}.png"
            Image.new("RGB", (48, 96), (gray, gray, gray)).save(tmp_path / name)
            rows.append((name, pid, camera, "train"))
    with (tmp_path / "people.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "people.csv"


@pytest.fixture
def recombine(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)

    def run(people, out, *options):
        monkeypatch.setattr("sys.argv", [str(SCRIPT), str(people), "--out", str(out), *options])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


def test_each_is_the_upper_half_of_one_above_the_lower_half_of_another(people, tmp_path, recombine):
    recombine(people, tmp_path / "new", "--num-ids", "4")
    train = open_dataset(tmp_path / "new" / "data.csv").train
    assert train.num_pids == 4
    kinds = []
    for pid in range(4):
        samples = [sample for sample in train if sample.pid == pid]
        kinds.append([])
        for sample in samples:
            pixels = np.asarray(Image.open(sample.path), dtype=float)
            assert pixels.shape == (128, 64, 3)
            upper, lower = pixels[:32].mean(), pixels[-32:].mean()
            assert abs(upper - lower) > 30
            kinds[-1].append(("light above" if upper > lower else "dark above", sample.camid))
    # The cameras are those of the one above. Around a circle of two, each is once above the other, then again.
    light, dark = [("light above", 1), ("light above", 2)], [("dark above", 1), ("dark above", 2), ("dark above", 2)]
    assert sorted(map(sorted, kinds)) == sorted([light, dark, light, dark])


def test_the_same_seed_makes_the_same_people_and_another_one_others(people, tmp_path, recombine):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        recombine(people, tmp_path / name, "--num-ids", "2", "--seed", seed)
    images = [[path.read_bytes() for path in sorted((tmp_path / name / "images").iterdir())] for name in "abc"]
    assert images[0] == images[1] != images[2]


def test_what_cannot_be_recombined_is_one_sentence(people, tmp_path, recombine, capsys):
    alone = tmp_path / "alone.csv"
    alone.write_text("".join(line for line in people.read_text().splitlines(keepends=True) if not line.startswith("9_")))
    for table, out, words in ((alone, "new", "of at least 2 identities; got 600 of 1"), (people, ".", "exists")):
        with pytest.raises(SystemExit) as exit_:
            recombine(table, tmp_path / out)
        assert exit_.value.code == 2
        assert words in capsys.readouterr().err

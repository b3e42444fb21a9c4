"""`hat embed`: what it writes for other programs."""

import csv
import sys

import numpy as np
import pytest
from enrolled_people import caller, shared_world

from hat.embedder import Embedder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return shared_world(tmp_path_factory)


@pytest.fixture
def run(monkeypatch, capsys):
    return caller(monkeypatch, capsys)


def test_npz_holds_names_labels_and_embeddings(run, world, tmp_path):
    folder, out = world / "people" / "query", tmp_path / "people.npz"
    result = run("embed", world / "model", folder, "--out", out, "--batch-size", 3, "--json").json
    paths = sorted(str(path) for path in folder.iterdir())
    with np.load(out) as written:
        assert written["source"].tolist() == paths
        assert written["camid"].tolist() == [path.rpartition("_c")[2][0] for path in paths]
        assert written["pid"].tolist() == [str(int(path.rpartition("/")[2][:4])) for path in paths]
        assert str(written["fingerprint"]) == result["fingerprint"] and result["num_images"] == len(paths)
        embeddings = written["embeddings"]
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, Embedder.open(world / "model").embed(paths), atol=1e-6)


def test_csv_gives_the_same_numbers_back(run, world, tmp_path):
    picture = next((world / "people" / "query").iterdir())
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "a.png").write_bytes(picture.read_bytes())
    (tmp_path / "alice" / "b.png").write_bytes(b"no picture")
    answer = run("embed", world / "model", tmp_path, "--out", tmp_path / "out.csv")
    assert answer.code == 0 and "left out: " in answer.err and "b.png" in answer.err
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["source"], row["pid"], row["camid"]) == (str(tmp_path / "alice" / "a.png"), "alice", "")
    values = np.array([float(value) for name, value in row.items() if name.startswith("e")], dtype=np.float32)
    np.testing.assert_array_equal(values, Embedder.open(world / "model").embed([picture])[0])


def test_what_cannot_be_written_is_refused_before_the_work(run, world, tmp_path, monkeypatch):
    folder = world / "people" / "query"
    (tmp_path / "there.npz").touch()
    for out, words in (("x.txt", "the ending says how"), ("there.npz", "is there already"), ("no/x.npz", "folder")):
        answer = run("embed", world / "model", folder, "--out", tmp_path / out)
        assert answer.code == 2 and words in answer.err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = run("embed", world / "model", folder, "--out", tmp_path / "x.parquet")
    assert answer.code == 2 and "pip install pyarrow" in answer.err


def test_parquet_is_written_by_pyarrow(run, world, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = world / "people" / "query"
    assert run("embed", world / "model", folder, "--out", tmp_path / "x.parquet").code == 0
    table = parquet.read_table(tmp_path / "x.parquet")
    paths = sorted(str(path) for path in folder.iterdir())
    assert table["source"].to_pylist() == paths and len(table["embedding"][0]) == Embedder.open(world / "model").embed_dim

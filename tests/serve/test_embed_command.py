"""`hat embed`: what it writes for other programs."""

import csv
import sys

import numpy as np
import pytest
from gray_pictures import draw_gray_twice
from PIL import Image

from hat.embedder import Embedder
from hat.serve import Gallery


def test_npz_and_parquet_hold_names_labels_and_embeddings(run, world, tmp_path):
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
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("embed", world / "model", folder, "--out", tmp_path / "x.parquet").code == 0
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table["source"].to_pylist() == paths
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), embeddings, atol=1e-6)


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


def test_gray_bits_scale_sensors_of_fewer_bits_in_every_command(run, world, tmp_path):
    """Cameras of 12 bits write them into files of 16: scaled, they are what the upper 8 of the 12 bits are."""
    draw_gray_twice(tmp_path, [f"{name}.png" for name in ("7/cam1/a", "7/cam2/b", "8/cam1/c", "8/cam2/d")])
    model, bits = world / "model", ("--gray-bits", 12)
    found = []
    for folder, options in (("deep", bits), ("plain", ())):
        data, out, gallery = tmp_path / folder, tmp_path / f"{folder}.npz", tmp_path / f"{folder}.gallery"
        assert run("embed", model, data, "--out", out, *options).code == 0
        assert run("enroll", gallery, data, "--model", model, *options).code == 0
        evaluated = run("eval", model, "--data", data, "--json", *options).json["results"][0]
        query = data / "8" / "cam1" / "c.png"
        searched = run("search", tmp_path / "deep.gallery", query, "--model", model, "--json", *options).json["queries"][0]
        with np.load(out) as written, Gallery.open(gallery, read_only=True) as opened:
            found.append((written["embeddings"], opened.embeddings([1, 2, 3, 4]), evaluated["mAP"], searched["matches"]))
    (embeddings, enrolled, mean_ap, matches), expected = found
    np.testing.assert_array_equal(embeddings, expected[0])
    np.testing.assert_array_equal(enrolled, expected[1])
    assert mean_ap == expected[2] and matches == expected[3] and matches[0]["similarity"] == pytest.approx(1)
    with pytest.warns(UserWarning, match="uses 12 bits is nearly black; .*--gray-bits 12"):
        run("embed", model, query.parents[2].with_name("deep"), "--out", tmp_path / "dark.npz")
    assert run("embed", model, query, "--out", tmp_path / "x.npz", "--gray-bits", 7).code == 2


def test_whole_frames_are_told_once_and_counted_before_the_work(run, world, tmp_path):
    rng = np.random.default_rng(0)
    for number, size in enumerate([(64, 96)] * 3 + [(96, 48)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    images = sorted(tmp_path.glob("*.png"))
    gallery, model = tmp_path / "g", ("--model", world / "model")
    assert run("enroll", gallery, images[3], *model).err == ""  # a person
    for arguments in (
        ("embed", world / "model", *images, "--out", tmp_path / "x.npz"),
        ("enroll", gallery, *images, *model),
        ("search", gallery, *images, *model),
    ):
        answer = run(*arguments, "--json")
        (note,) = answer.json["notes"]
        assert note.startswith("3 of 4 images looked at are wider than high") and answer.err.count(note) == 1
    (tmp_path / "people.csv").write_text("path,left,top,right,bottom\n0.png,0,0,20,60\n")  # a box in a frame is a person too
    answer = run("embed", world / "model", tmp_path / "people.csv", "--out", tmp_path / "y.npz", "--json")
    assert answer.json["notes"] == [] and answer.err == ""

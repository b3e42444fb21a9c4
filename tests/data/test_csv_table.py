"""A data set in a CSV table."""

from __future__ import annotations

import zipfile

import pytest

from hat.data import load_dataset, read_image
from hat.errors import DataError

GOOD = """path,pid,camid,split
a/1.jpg,anna,north,train
a/2.jpg,bob,south,train
a/3.jpg,carl,north,query
a/4.jpg,carl,south,gallery
a/5.jpg,-1,south,gallery
"""


@pytest.fixture
def write(tmp_path, touch):
    def run(text, *, encoding="utf-8"):
        touch(tmp_path, [f"a/{i}.jpg" for i in range(1, 6)])
        path = tmp_path / "table.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return run


def rows(split):
    return [(sample.path.rpartition("/")[2], sample.pid, sample.camid) for sample in split]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_labels_are_numbered_in_sorted_order_over_all_splits(write, newline, tmp_path):
    dataset = load_dataset("csv", write(GOOD.replace("\n", newline)))
    assert rows(dataset.train) == [("1.jpg", 1, 1), ("2.jpg", 2, 2)]
    assert rows(dataset.query) == [("3.jpg", 3, 1)]
    assert rows(dataset.gallery) == [("4.jpg", 3, 2)]
    assert dataset.train[0].path == str(tmp_path / "a" / "1.jpg")
    assert dataset.notes == ("1 junk images (-1) left out",)


def test_numbers_stay_columns_may_be_in_any_order_and_others_are_ignored(write):
    text = "Split, pid ,extra,CAMID,path,,\ntrain,0042,zzz,7,a/1.jpg,,x\n\n train , 5 ,,0, a/2.jpg ,,\n"
    dataset = load_dataset("csv", write(text))
    assert rows(dataset.train) == [("1.jpg", 42, 7), ("2.jpg", 5, 0)]


def test_absolute_climbing_quoted_and_archived_paths(write, tmp_path, picture, encode):
    table = write("")
    data = encode(picture())
    inside = tmp_path / "in"
    inside.mkdir()
    with zipfile.ZipFile(inside / "z.zip", "w") as archive:
        archive.writestr("deep/x.jpg", data)
    (tmp_path / "with, comma.jpg").write_bytes(data)
    paths = [str(tmp_path / "a" / "1.jpg"), f"../{tmp_path.name}/a/2.jpg", '"with, comma.jpg"', "in/z.zip!deep/x.jpg"]
    table.write_text("path,pid,camid,split\n" + "".join(f"{path},{i},1,train\n" for i, path in enumerate(paths)))
    dataset = load_dataset("csv", table)
    assert len(dataset.train) == 4
    assert read_image(dataset.train[2].path).tobytes() == read_image(dataset.train[3].path).tobytes()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a/9.jpg,anna,1,train", r"line 3: there is no file .*a/9\.jpg"),
        ("a,anna,1,train", "line 3: there is no file"),
        ("a/none.zip!x.jpg,anna,1,train", "line 3: there is no file"),
        ("a/2.jpg,anna,1,test", "line 3: split is 'test', expected train, query, gallery"),
        ("a/2.jpg,anna,1", "line 3: expected 4 fields, got 3"),
        ("a/2.jpg,anna,1,train,", "line 3: expected 4 fields, got 5"),
        (",anna,1,train", "line 3: path is empty"),
        ("a/2.jpg, ,1,train", "line 3: pid is empty"),
        ("a/2.jpg,anna,,train", "line 3: camid is empty"),
        ("a/2.jpg,anna,-3,train", "line 3: camid is '-3'"),
        ('a/2.jpg,"anna,1,train', "line 3: not CSV"),
        ('a/2.jpg,"an"na,1,train', "line 3: not CSV"),
        ("a/2\0.jpg,anna,1,train", "line 3"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(write, line, words):
    path = write(f"path,pid,camid,split\na/1.jpg,bob,1,train\n{line}\n")
    with pytest.raises(DataError, match=words) as caught:
        load_dataset("csv", path)
    assert str(caught.value).startswith(str(path))


def test_lines_are_those_of_the_file_where_a_field_spans_two(write):
    path = write('path,pid,camid,split\na/1.jpg,"bo\nb",1,train\na/9.jpg,x,1,train\n')
    with pytest.raises(DataError, match="line 4: there is no file"):
        load_dataset("csv", path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: expected the columns path, pid, camid, split; path, pid, camid, split missing"),
        ("path,pid,camid\n", "line 1: .*; split missing"),
        ("path,pid,camid,split\n", "no rows"),
        ("path,pid,camid,split\na/1.jpg,1,1,query\n", "gallery is empty"),
        ("path,pid,camid,split\na/1.jpg,-7,1,train\n", "column pid: the label -7 is a negative number"),
    ],
)
def test_a_wrong_table_is_told(write, text, words):
    with pytest.raises(DataError, match=words):
        load_dataset("csv", write(text))


def test_not_utf8_missing_and_folder(write, tmp_path):
    with pytest.raises(DataError, match="neither UTF-8 nor UTF-16"):
        load_dataset("csv", write(GOOD.replace("anna", "änna"), encoding="latin-1"))
    with pytest.raises(DataError, match="there is no such file"):
        load_dataset("csv", tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset("csv", tmp_path)

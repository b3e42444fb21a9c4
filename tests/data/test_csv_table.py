"""A data set in a CSV table."""

import os
import zipfile

import pytest

from hat.data import load_dataset, open_dataset, read_image
from hat.data.csv_table import write_csv_table
from hat.errors import DataError, UsageError, WorkError

HEADER = "path,pid,camid,split\n"
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
def test_read_csv_table_labels_are_numbered_in_sorted_order_over_all_splits(write, newline, tmp_path):
    dataset = load_dataset("csv", write(GOOD.replace("\n", newline)))
    assert rows(dataset.train) == [("1.jpg", 1, 1), ("2.jpg", 2, 2)]
    assert (rows(dataset.query), rows(dataset.gallery)) == ([("3.jpg", 3, 1)], [("4.jpg", 3, 2)])
    assert dataset.train[0].path == str(tmp_path / "a" / "1.jpg")
    assert dataset.notes == ("1 junk images (-1) left out",)


def test_read_csv_table_numbers_stay_and_other_columns_are_ignored(write):
    text = "Split, pid ,extra,CAMID,path,,\ntrain,0042,zzz,7,a/1.jpg,,x\n\n train , 5 ,,0, a/2.jpg ,,\n"
    assert rows(load_dataset("csv", write(text)).train) == [("1.jpg", 42, 7), ("2.jpg", 5, 0)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_read_csv_table_as_spreadsheets_write_it(encoding, separator, write):
    table = [("Path", "pid", "camid", "split"), ("a\\1.jpg", "7.0", "1", "query"), ("a/2.jpg", "007", "2", "gallery")]
    table.append(("a/3.jpg", "-1.0", "2", "gallery"))
    data = open_dataset(write("\n".join(separator.join(row) for row in table), encoding=encoding))
    assert data.name == "table" and (rows(data.query), rows(data.gallery)) == ([("1.jpg", 7, 1)], [("2.jpg", 7, 2)])


def test_read_csv_table_expands_home(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_dataset("csv", write(GOOD.replace("a/1", "~/a/1"))).train[0].path == str(tmp_path / "a/1.jpg")
    monkeypatch.delenv("HOME")
    with pytest.raises(DataError, match=r"there is no file .*~nobody-here/a/1\.jpg"):
        load_dataset("csv", write(GOOD.replace("a/1", "~nobody-here/a/1")))


def test_read_csv_table_absolute_climbing_quoted_and_archived_paths(write, tmp_path, picture, encode):
    table = write("")
    data = encode(picture())
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "z.zip", "w") as archive:
        archive.writestr("deep/x.jpg", data)
    (tmp_path / "with, comma.jpg").write_bytes(data)
    paths = [str(tmp_path / "a" / "1.jpg"), f"../{tmp_path.name}/a/2.jpg", '"with, comma.jpg"', "in/z.zip!deep/x.jpg"]
    table.write_text(HEADER + "".join(f"{path},{i},1,train\n" for i, path in enumerate(paths)))
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
        ('a/2.jpg,"bo\nb",1,train\na/9.jpg,x,1,train', "line 5: there is no file"),  # lines of the file, not of the table
    ],
)
def test_read_csv_table_a_wrong_row_is_named_by_its_line(write, line, words):
    path = write(f"{HEADER}a/1.jpg,bob,1,train\n{line}\n")
    with pytest.raises(DataError, match=words) as caught:
        load_dataset("csv", path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: expected the columns path, pid, camid, split; path, pid, camid, split missing"),
        ("path,pid,camid\n", "line 1: .*; split missing"),
        (HEADER, "no rows"),
        (f"{HEADER}a/1.jpg,1,1,query\n", "gallery is empty"),
        (f"{HEADER}a/1.jpg,-7,1,train\n", "column pid: the label -7 is a negative number"),
    ],
)
def test_read_csv_table_a_wrong_table_is_told(write, text, words):
    with pytest.raises(DataError, match=words):
        load_dataset("csv", write(text))


def test_read_csv_table_not_utf8_missing_and_folder(write, tmp_path):
    latin = write(GOOD.replace("anna", "änna"), encoding="latin-1")
    wrong = {latin: "neither UTF-8 nor UTF-16", tmp_path / "none.csv": "there is no such file", tmp_path: "cannot be read"}
    for path, words in wrong.items():
        with pytest.raises(DataError, match=words):
            load_dataset("csv", path)


def test_read_csv_table_missing_and_repeated_files(write):
    lines = ["a/1.jpg,1,1,query", "a/2.jpg,1,2,gallery", "a/2.jpg,1,2,gallery", "6.jpg,1,2,gallery", "7.jpg,1,2,gallery"]
    table = write(HEADER + "\n".join(lines))
    with pytest.raises(DataError, match=r"line 5: there is no file .*6\.jpg \(and 1 more of 5\); --skip-bad of hat train"):
        open_dataset(table)
    data = open_dataset(table, skip_missing=True)
    assert len(data.gallery) == 2
    with pytest.raises(DataError, match=r"none of its 2 files is there, the first is .*6\.jpg"):
        open_dataset(write(HEADER + "\n".join(lines[3:])), skip_missing=True)
    for words in ("2 listed files are not there", "1 files are listed more than once in one split"):
        assert any(words in note for note in data.notes)


def test_write_csv_table_gives_the_same_split_to_others(touch, tmp_path):
    names = [f"{who}/{who}_c{cam}_{i}.jpg" for who in "abcdef" for cam in (1, 2) for i in range(2)]
    data = load_dataset("folder", touch(tmp_path / "own", names), split_seed=3)
    write_csv_table(data, tmp_path / "split.csv")
    again = open_dataset(tmp_path / "split.csv")
    for split in ("train", "query", "gallery"):
        assert getattr(again, split).samples == getattr(data, split).samples
    before = (tmp_path / "split.csv").read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        write_csv_table(data, tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_bytes() == before
    (tmp_path / "own/a/a_c1_0.jpg").rename(tmp_path / os.fsdecode(b"own/a/a_c1_\xe9.jpg"))
    with pytest.raises(WorkError, match="is no valid Unicode: rename it"):
        write_csv_table(load_dataset("folder", tmp_path / "own"), tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there(write):
    table = write(GOOD + f"{'n' * 300}.jpg,9,1,train\n")
    with pytest.raises(DataError, match="line 7"):
        open_dataset(table)
    assert len(open_dataset(table, skip_missing=True).train) == 2

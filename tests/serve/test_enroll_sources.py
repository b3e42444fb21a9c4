"""What is enrolled from where: names, folders, archives and tables, right and wrong."""

import io
import math
import time
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hat.data import load_dataset
from hat.errors import DataError, ImageError, UsageError
from hat.serve.enroll.image_sources import ImageSources
from hat.serve.enroll.items import Labels, read_name
from hat.serve.gallery.person_crops import box_from_text, box_text, content_hash, crop_person, make_thumbnail, record_image
from hat.serve.gallery.record_checks import attribute_value, parse_attributes
from hat.serve.gallery.records import Record
from hat.serve.gallery.timestamps import format_timestamp, parse_timestamp


@pytest.fixture(scope="module")
def picture():
    encoded = io.BytesIO()
    Image.effect_noise((20, 40), 50).save(encoded, "PNG")
    return encoded.getvalue()


def write(folder, names, data):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def listed(*inputs, **options):
    sources = ImageSources([str(one) for one in inputs], **options)
    items = list(sources.items())
    assert sources.count() == len(items)
    return items, dict(sources.left_out)


def test_read_name_market_names_and_others():
    for name, *expected in (
        ("0002_c1s1_000451_03.jpg", 2, 1, {"sequence": 1, "frame": 451}),
        ("-1_c3s2_000001_00.jpg", -1, 3, {"sequence": 2, "frame": 1}),
        ("0000_c6s3_012345_00.jpg", None, 6, {"sequence": 3, "frame": 12345}),
        ("0047_c2_f0044032.jpg", 47, 2, {}),
    ):
        labels = read_name(name)
        assert [labels.pid, labels.camid, dict(labels.attributes)] == expected and labels.time_s is None
    assert all(read_name(name) is None for name in ("a.jpg", "IMG_2034.jpg", "c1_0002.jpg", "_c1s1_1.jpg", ""))


def test_folders_are_read_whole_in_order_with_links_that_lead_back_left_out(tmp_path, picture):
    write(tmp_path, ("b/2.png", "b/deep/1.PNG", "a.jpg", "z.png", ".hidden/x.png", "b/._2.png", "b/notes.doc"), picture)
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "b" / "deep")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    items, left_out = listed(tmp_path)
    names = [item.source.removeprefix(f"{tmp_path}/") for item in items]
    assert names == ["a.jpg", "z.png", "again/1.PNG", "b/2.png", "b/deep/1.PNG"]
    assert left_out == {"neither images nor texts, or links that lead nowhere": 2}
    assert all(item.read() == picture for item in items)


def test_zip_files_are_read_without_unpacking(tmp_path, picture):
    archive = tmp_path / "people.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("0002_c1s1_000451_03.jpg", "sub/0003_c2s1_000001_00.jpg", "sub/readme.doc", "__MACOSX/._0002.jpg"):
            file.writestr(name, picture)
    items, left_out = listed(archive)
    assert left_out == {"neither images nor texts, or links that lead nowhere": 1}
    assert [(item.pid, item.camid) for item in items] == [(2, 1), (3, 2)]
    assert items[1].source == f"{archive}!sub/0003_c2s1_000001_00.jpg" and items[1].read() == picture
    (single,), _ = listed(f"{archive}!sub/0003_c2s1_000001_00.jpg")
    assert (single.source, single.pid) == (items[1].source, 3)


def test_names_are_believed_as_asked(tmp_path, picture):
    write(tmp_path, ("0002_c1s1_000451_03.png", "-1_c1s1_000001_00.png", "0000_c2s1_000001_00.png", "portrait.png"), picture)
    items, left_out = listed(tmp_path)
    assert [(item.pid, item.camid) for item in items] == [(None, 2), (2, 1), (None, None)]
    assert left_out == {"junk, pid -1": 1}
    items, left_out = listed(tmp_path, names="market")
    assert len(items) == 2 and left_out == {"junk, pid -1": 1, "their names are not Market-style": 1}
    items, left_out = listed(tmp_path, names="none")
    assert [item.pid for item in items] == [None] * 4 and left_out == {}
    with pytest.raises(UsageError, match="auto, market, none"):
        ImageSources([str(tmp_path)], names="imagenet")


def test_a_folder_for_each_person_gives_identities_as_hat_eval_reads_them(tmp_path, picture):
    names = ("0007/a_cam2.png", "alice/cam1/b.png", "alice/c_c3.png", "-1/d_c1.png", "0000/e_c1.png", "bob/0005_c4s1_1.png")
    write(tmp_path / "flat", names, picture)
    items, left_out = listed(tmp_path / "flat")
    found = {item.source.rpartition("/")[2]: (item.pid, item.camid) for item in items}
    assert found == {
        "a_cam2.png": (7, 2), "b.png": ("alice", 1), "c_c3.png": ("alice", 3), "e_c1.png": (None, 1),
        "0005_c4s1_1.png": ("bob", 4),
    }  # fmt: skip
    assert left_out == {"junk, pid -1": 1}
    (tmp_path / "split").mkdir()
    (tmp_path / "flat" / "bob" / "0005_c4s1_1.png").unlink()
    (tmp_path / "flat").rename(tmp_path / "split" / "query")
    write(tmp_path, ("split/gallery/alice/f_c2.png",), picture)
    items, _ = listed(tmp_path / "split")
    assert [item.pid for item in items] == ["alice", None, 7, "alice", "alice"]
    assert [item.pid for item in listed(tmp_path / "split", names="none")[0]] == [None] * 6
    dataset = load_dataset("folder", tmp_path / "split")
    cameras = {sample.path: sample.camid for sample in [*dataset.query, *dataset.gallery]}
    assert cameras == {item.source: item.camid for item in items}
    with zipfile.ZipFile(tmp_path / "people.zip", "w") as file:
        for name in ("7/a.png", "alice/b.png"):
            file.writestr(name, picture)
    assert [item.pid for item in listed(tmp_path / "people.zip")[0]] == [7, "alice"]
    write(tmp_path / "nobodys", ("alice/a.png", "images/b.png"), picture)
    sources = ImageSources([str(tmp_path / "nobodys")])
    assert [item.pid for item in sources.items()] == [None, None]
    assert "no identities are read" in sources.notes[0] and "the folder images is no person's" in sources.notes[0]


def test_other_layouts_are_read_as_hat_eval_reads_them(tmp_path, picture):
    """VIPeR's: a folder for each camera, and names that say the person."""
    write(tmp_path, (f"{camera}/{pid:03d}_45.bmp" for camera in ("cam_a", "cam_b") for pid in range(1, 5)), picture)
    items, _ = listed(tmp_path)
    dataset = load_dataset("camera-folders", tmp_path)
    samples = [*dataset.train, *dataset.query, *dataset.gallery]
    expected = {sample.path: (sample.pid, sample.camid) for sample in samples}
    assert {item.source: (item.pid, item.camid) for item in items} == expected and len({item.pid for item in items}) == 4


def test_labels_of_tables_are_read_as_hat_eval_reads_them(tmp_path, picture):
    """Names, numbers as spreadsheets write them, and cameras called by a name."""
    (tmp_path / "a.png").write_bytes(picture)
    table = tmp_path / "people.csv"
    labels = [("7.0", "door"), ("007", "yard"), ("alice", "door"), ("0000", "3"), ("-1.0", "yard"), ("1" * 19, "3.0")]
    rows = "".join(f"a.png,{pid},{camid},query\n" for pid, camid in labels)
    table.write_text(f"path,pid,camid,split\n{rows}a.png,7,3,gallery\n")
    items, left_out = listed(table)
    assert [item.pid for item in items] == [7, 7, "alice", None, "1" * 19, 7] and left_out == {"junk, pid -1": 1}
    dataset = load_dataset("csv", table)
    assert [item.camid for item in items] == [*dataset.query.camids, *dataset.gallery.camids]
    assert [item.attributes["camera"] for item in items[:3]] == ["door", "yard", "door"]


def test_a_camera_that_has_a_name_has_one_number_in_all_tables(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture)
    tables = []
    for day, cameras in enumerate((("door", "yard"), ("door", "gate", "yard", "5"))):
        tables.append(tmp_path / f"day{day}.csv")
        tables[-1].write_text("path,camid\n" + "".join(f"a.png,{camera}\n" for camera in cameras))
    items, _ = listed(*tables)
    assert [item.camid for item in items] == [6, 8, 6, 7, 8, 5]
    items, _ = listed(tables[1], cameras=lambda: ({"yard": 2}, 9))
    assert [item.camid for item in items] == [10, 11, 2, 5]
    assert [item.attributes.get("camera") for item in items] == ["door", "gate", "yard", None]


def test_labels_of_a_call_stand_above_names(tmp_path, picture):
    path = tmp_path / "0002_c1s1_000451_03.png"
    path.write_bytes(picture)
    labels = Labels(pid=9, camid=8, time_s=7.0, attributes={"frame": 1, "site": "north"})
    (item,), _ = listed(path, labels=labels)
    assert (item.pid, item.camid, item.time_s) == (9, 8, 7.0)
    assert dict(item.attributes) == {"sequence": 1, "frame": 1, "site": "north"}
    assert Path(item.source).is_absolute()


def test_a_table_says_everything(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(picture)
    table = tmp_path / "people.csv"
    table.write_text(
        "\ufeffPath,pid,camid,time,left,top,right,bottom,color,bag\n"
        ".\\a.png,4,2,2026-11-25T08:30:00Z,1,2,11.6,30,red,true\n"
        f"\n{tmp_path}/a.png,,,,,,,,,\n"
        "gone.png,-1,,,,,,,,\n"
        "gone.png,5,,12.5,,,,,007,3\n",
        encoding="utf-8",
    )
    items, left_out = listed(table)
    first, second, third = items
    assert (first.pid, first.camid, first.box) == (4, 2, (1, 2, 12, 30))
    assert first.time_s == datetime(2026, 11, 25, 8, 30, tzinfo=timezone.utc).timestamp()
    assert dict(first.attributes) == {"color": "red", "bag": True}
    assert (second.pid, second.camid, second.time_s, second.box, dict(second.attributes)) == (None, None, None, None, {})
    assert second.read() == picture and second.source == first.source == str(tmp_path / "a.png")
    assert (third.pid, third.time_s, dict(third.attributes)) == (5, 12.5, {"color": "007", "bag": 3})
    with pytest.raises(ImageError, match="no such file"):
        third.read()
    assert left_out == {"junk, pid -1": 1}


def test_a_mistake_in_a_table_is_named_by_its_line_before_anything_is_done(tmp_path):
    table = tmp_path / "people.csv"
    for text, sentence in (
        ("pid,camid\n1,2\n", "line 1: expected the columns path; path missing"),
        ("", "line 1: expected the columns path"),
        ("path,path\na,b\n", "path more than once"),
        ("path,left\na,1\n", "top, right, bottom missing"),
        ("path,pid\na.png\n", "line 2: expected 2 fields, got 1"),
        ("path,pid\na.png,-2\n", "line 2: pid: the label -2 is a negative number"),
        ("path,pid\na.png," + "x" * 201 + "\n", "line 2: pid: 'xxx"),
        ("path,camid\na.png,-1\n", "line 2: camid is '-1'"),
        ("path,pid\n,3\n", "line 2: path is empty"),
        ("path,time\na.png,yesterday\n", "line 2, column time: 'yesterday' is not a time"),
        ("path,time\na.png,1764059400000\n", "is not a time"),
        ("path,left,top,right,bottom\na.png,1,2,,4\n", "line 2: right is empty"),
        ("path,left,top,right,bottom\na.png,1,2,x,4\n", "line 2: right is 'x', expected a number"),
        ("path,left,top,right,bottom\na.png,1,2,nan,4\n", "line 2: right is 'nan', expected a number"),
        ("path,left,top,right,bottom\na.png,1,2,inf,4\n", "line 2: right is 'inf', expected a number"),
        ("path,a\tb\na.png,1\n", r"line 2: 'a\tb' is not a name for an attribute"),
        ("path,x\na.png," + "y" * 4097 + "\n", "4,097 characters, the limit is 4,096"),
        ('path\n"a\n', "line 2: not CSV"),
        ("path\na\0b.png\n", "expected a file's path"),
    ):
        table.write_text(text)
        with pytest.raises(UsageError) as error:
            ImageSources([str(table)]).count()
        assert sentence in str(error.value) and str(table) in str(error.value)


def test_inputs_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.csv").write_bytes(b"path\n\xe9.png\n")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "no.zip").write_bytes(b"PK not a zip")
    for name, sentence in (
        ("latin.csv", "neither UTF-8 nor UTF-16"),
        ("folder.csv", "cannot be read"),
        ("no.zip", "cannot be read as a zip file"),
        ("none.csv", "no such file or folder"),
        ("gone.jpg", r"gone\.jpg: there is no such file or folder"),
        ("gone.zip!a.jpg", "no such file"),
        ("a" * 5000, "cannot be looked up"),
    ):
        with pytest.raises(DataError, match=sentence):
            ImageSources([f"{tmp_path}/{name}"]).count()


def test_crops_boxes_hashes_thumbnails_and_pictures_of_records(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 20, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(crop_person(image, (5, -9, 99, 20), "x")), np.asarray(image)[0:20, 5:20])
    for box in ((20, 0, 30, 10), (5, 5, 5, 30), (10, 10, 5, 5), (-50, -50, -1, -1), (0, 0, 3, 40), (10**9, 0, 10**9, 9)):
        with pytest.raises(ImageError, match=r"x: of the box .* at least 4 x 4 pixels must lie inside the picture \(20 x 40\)"):
            crop_person(image, box, "x")
    assert box_from_text(box_text((1, -2, 30, 4))) == (1, -2, 30, 4)
    image.save(tmp_path / "a.png")
    known = content_hash((tmp_path / "a.png").read_bytes(), (5, 0, 15, 20))
    record = Record(
        id=1, content_hash=known, source=f"{tmp_path}/a.png", attributes={"box": box_text((5, 0, 15, 20))}, enrolled_s=0
    )
    assert np.array_equal(np.asarray(record_image(record)), np.asarray(image)[0:20, 5:15])
    image.rotate(180).save(tmp_path / "a.png")
    assert record_image(record) is None, "another picture by now"
    assert all(box_from_text(text) is None for text in ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4"))
    assert len({content_hash(*one) for one in ((b"x",), (b"y",), (b"x", (1, 2, 3, 4)), (b"x", (1, 2, 3, 5)))}) == 4
    for size, expected in (((300, 600), (50, 100)), ((10, 20), (10, 20)), ((4000, 100), (200, 5))):
        with Image.open(io.BytesIO(make_thumbnail(Image.new("RGB", size), 100))) as small:
            assert (small.format, small.size) == ("JPEG", expected)


def test_attributes_are_of_the_type_that_they_look_like_and_names_are_checked():
    values = {"true": True, "false": False, "0": 0, "-3": -3, "1.50": 1.5} | {
        text: text for text in ("007", "+1", "1e5", "nan", "x")
    }
    for text, value in values.items():
        assert (attribute_value(text), type(attribute_value(text))) == (value, type(value))
    assert parse_attributes([("a", "1"), ("b", ""), ("2nd/floor", "x")], "here") == {"a": 1, "2nd/floor": "x"}  # as over HTTP
    for pairs, sentence in (
        ([("", "1")], "not a name"),
        ([("a", "1"), ("a", "2")], "given twice"),
        ([(f"a{number}", "1") for number in range(65)], "65 attributes"),
        ([("x" * 65, "1")], "not a name"),
        ([("a\nb", "1")], "not a name"),
    ):
        with pytest.raises(UsageError, match=f"here: .*{sentence}"):
            parse_attributes(pairs, "here")


@pytest.fixture
def in_tokyo(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


def test_parse_timestamp_and_format_timestamp(in_tokyo):
    noon = datetime(2026, 11, 25, 12, tzinfo=timezone.utc).timestamp()
    for text in ("2026-11-25T12:00:00", "2026-11-25 12:00", "2026-11-25T12:00:00Z", "2026-11-25T13:00:00+01:00", str(noon)):
        assert parse_timestamp(text, "x") == noon
    assert format_timestamp(noon) == "2026-11-25 12:00:00"
    assert format_timestamp(1e30) == "1e+30 s" and format_timestamp(math.nan) == "nan s"
    for text in ("", "nan", "inf", "1e12", "2026-13-01", "noon"):
        with pytest.raises(UsageError, match=r"x: .* is not a time"):
            parse_timestamp(text, "x")

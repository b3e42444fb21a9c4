"""One rule for labels, wherever they are written."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.labels import number_labels, parse_camera, parse_camera_folder, parse_label
from hat.data.market import parse_market_name
from hat.errors import DataError

MEANINGS = {
    "7": 7, "007": 7, " 7 ": 7, "7.0": 7, "7.": 7, "+7": 7, "0000": 0, "-0": 0, "-1": -1, "-1.0": -1, "9" * 18: 10**18 - 1,
    "9" * 19: "9" * 19, "7.5": "7.5", "1e3": "1e3", "anna": "anna", "Ärzte & Co": "Ärzte & Co", "A\u0308rzte": "Ärzte",
    "cam_1": "cam_1",
}  # fmt: skip


@pytest.mark.parametrize(("text", "meaning"), MEANINGS.items())
def test_parse_label_table(text, meaning):
    assert parse_label(text) == meaning and type(parse_label(text)) is type(meaning)


@pytest.mark.parametrize("text", ["", "  ", "-2", "-7.0", "a\nb", "a\0", "x" * 201])
def test_parse_label_refuses(text):
    with pytest.raises(DataError):
        parse_label(text)


def test_number_labels_names_among_numbers_come_after_them():
    assert number_labels(["bob", "17", "-1", "anna", "0003", "3.0"], "x") == {
        "-1": -1, "0003": 3, "3.0": 3, "17": 17, "anna": 18, "bob": 19,
    }  # fmt: skip


def test_number_labels_names_alone_begin_at_one_and_errors_name_the_place():
    assert number_labels(["b", "a", "-1.0"], "x") == {"a": 1, "b": 2, "-1.0": -1}
    with pytest.raises(DataError, match=r"^table\.csv: the label -2"):
        number_labels(["-2"], "table.csv")


@settings(max_examples=50)
@given(st.sets(st.text(st.characters(categories=["L", "N", "Pd"]), min_size=1, max_size=8), max_size=20))
def test_number_labels_are_dense_over_names_and_equal_only_for_the_same_meaning(labels):
    numbers = number_labels(labels := {label for label in labels if not label.startswith("-")}, "x")
    for first, second in itertools.product(labels, repeat=2):
        assert (numbers[first] == numbers[second]) == (parse_label(first) == parse_label(second))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("0002_c1s1_000451_03.jpg", (2, 1)),
        ("-1_c3s2_1.jpg", (-1, 3)),
        ("0005_c2_f0046985.jpg", (5, 2)),
        ("0001_c001_00016450_0.jpg", (1, 1)),
        ("0001C1T0001F001.jpg", (1, 1)),
        ("12_camA_3.png", (12, 1)),
        ("12_Cam_3_x.png", (12, 3)),
        ("12_camera-2.png", (12, 2)),
        *((name, None) for name in ("anna_c1.jpg", "0002.jpg", "0002_color1.jpg", "-2_c1.jpg", "1c1.jpg", "a1_c1.jpg")),
        *((name, None) for name in ("1_d1.jpg", "1_c.jpg", "1234567890_c1.jpg", "1_c1234567.jpg", "²_c1.jpg")),
    ],
)
def test_parse_market_name_table(name, labels):
    assert parse_market_name(name) == labels


@pytest.mark.parametrize(
    ("name", "camera", "folder"),
    [
        ("cam1", 1, 1),
        ("Cam_A", 1, 1),
        ("camera-12", 12, 12),
        ("c3", 3, 3),
        *(
            (name, None, None)
            for name in ("c", "ca", "cam", "anna", "cama1", "camber_1.png", "abc1_2.jpg", "c1x.jpg", "0002.c7")
        ),
        ("x.camB.png", 2, None),
        ("0002_c1s1_000451_03.jpg", 1, None),
        ("x-camera12.frame7.JPG", 12, None),
        ("a_c05_b.jpg", 5, None),
    ],
)
def test_parse_camera_of_files_and_folders(name, camera, folder):
    assert parse_camera(name) == camera and parse_camera_folder(name) == folder

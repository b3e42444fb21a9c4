"""One rule for labels, wherever they are written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.labels import number_labels, parse_label
from hat.errors import DataError


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("7", 7),
        ("007", 7),
        (" 7 ", 7),
        ("7.0", 7),
        ("7.", 7),
        ("+7", 7),
        ("0000", 0),
        ("-0", 0),
        ("-1", -1),
        ("-1.0", -1),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, "9" * 19),
        ("7.5", "7.5"),
        ("1e3", "1e3"),
        ("anna", "anna"),
        ("Ärzte & Co", "Ärzte & Co"),
        ("cam_1", "cam_1"),
    ],
)
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
    try:
        numbers = number_labels(labels, "x")
    except DataError:
        return
    for first in labels:
        for second in labels:
            assert (numbers[first] == numbers[second]) == (parse_label(first) == parse_label(second))

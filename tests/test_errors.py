"""What messages are made of."""

import pytest

from hat.errors import first_line, last_line, unknown_name


@pytest.mark.parametrize(
    ("message", "first", "last"),
    [
        ("", "RuntimeError", "RuntimeError"),
        (" \n\n", "RuntimeError", "RuntimeError"),
        ("one line", "one line", "one line"),
        ("\n  src/core.cpp:81:\nCheck failed \n\n", "src/core.cpp:81:", "Check failed"),
    ],
)
def test_first_and_last_line(message, first, last):
    error = RuntimeError(message)
    assert (first_line(error), last_line(error)) == (first, last)


def test_unknown_name_brings_the_nearest_or_all():
    assert unknown_name("preset 'quik'", "quik", ["slow", "quick"]) == "unknown preset 'quik' (did you mean quick?)"
    assert unknown_name("key a.b", "b", ("slow", "quick")) == "unknown key a.b (known: slow, quick)"

from __future__ import annotations

from pathlib import Path

import pytest

from herohe_model.errors import SlideNotFoundError
from herohe_model.printable import is_text, printable, printable_name


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Müller 日本.tif", "Müller 日本.tif"),
        ("lat\udce9n.tif", "lat\\xe9n.tif"),
        ("half \ud83d", "half \\ud83d"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\x9b31mb\x7f\0", "a\\x9b31mb\\x7f\\x00"),
        ("exe\u202efdp.svs", "exe\\u202efdp.svs"),
        ("line\r\nnext\tcell", "line\\x0d\nnext\tcell"),
    ],
)
def test_what_cannot_or_must_not_be_printed_is_written_out(given: str, shown: str) -> None:
    assert printable(given) == shown == printable(shown)
    assert is_text(shown)


def test_a_name_is_one_line() -> None:
    assert printable_name("a\nb\tc\u2028") == "a\\x0ab\\x09c\\u2028"


def test_no_error_carries_a_name_raw() -> None:
    name = Path("lat\udce9n\x1b[31m.tif")
    error = SlideNotFoundError(f"There is no slide {name}", "Look for \x1b")
    assert str(error) == "There is no slide lat\\xe9n\\x1b[31m.tif. Look for \\x1b."

"""Text from outside made safe to show: in a terminal, in a log, in a file.

A file's name may hold bytes that are no text (Python shows them as lone surrogates, which no encoding takes),
and names, classes and model cards may hold sequences that a terminal obeys. Both are shown as what they are.
"""

from __future__ import annotations

import re
from typing import Final

_UNSAFE: Final = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS: Final = re.compile("[\t\n\u2028\u2029]")


def printable(text: str) -> str:
    r"""Return a text in which what cannot or must not be printed is written out, such as ``\x1b``.

    Line feeds and tabs stay. Twice is the same as once.
    """
    return _UNSAFE.sub(_written_out, text)


def printable_name(text: str) -> str:
    """Return a name as :func:`printable` does, and in one line."""
    return _BREAKS.sub(_written_out, printable(text))


def is_text(name: str) -> bool:
    """Whether a name can be encoded at all; one that is not UTF-8 on the disk cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    # Bytes that are no UTF-8 are read as U+DC80 to U+DCFF (PEP 383).
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

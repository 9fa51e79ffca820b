"""Self-contained HTML pages: one file, no network, nothing executed but what we ship.

Every page extends ``templates/base.html``. Its style sheets and scripts stand inside it, and a content
security policy lists their digests: a browser runs no other script and asks no other host, whatever a slide
or a class is called.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import IO, Any, Final

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bridge import __version__
from bridge.results import RESEARCH_USE_ONLY

STYLES: Final = ("page.css",)


def write_page(
    file: IO[str],
    template: str,
    context: Mapping[str, Any],
    *,
    scripts: Sequence[str] = (),
    files_beside: bool = False,
) -> None:
    """Write a page, piece by piece.

    Parameters
    ----------
    file
        Open for text in UTF-8 without newline translation.
    template
        Name of a file in ``templates``, which extends ``base.html``.
    context
        What the template shows. Strings are escaped. Iterators are drawn from while writing.
    scripts
        Names of files in ``templates``, run in this order at the end of the page.
    files_beside
        Whether the page may load scripts and pictures that lie beside it.
    """
    styles = [_source(name) for name in STYLES]
    code = [_source(name) for name in scripts]
    beside = " 'self' file:" if files_beside else ""
    policy = (
        f"default-src 'none'; img-src data:{beside}; style-src {_digests(styles)}; "
        f"script-src {_digests(code) or _NONE}{beside}; base-uri 'none'; form-action 'none'"
    )
    shared = {
        "policy": policy,
        "styles": [Markup(text) for text in styles],
        "scripts": [Markup(text) for text in code],
        "version": __version__,
        "research_use_only": RESEARCH_USE_ONLY,
    }
    stream = _environment().get_template(template).stream({**shared, **context})
    stream.enable_buffering(64)
    for piece in stream:
        file.write(piece)


def json_in_html(value: object) -> Markup:
    """Return a value as JSON that can stand inside a ``<script type="application/json">`` element."""
    return escape_json(msgspec.json.encode(value).decode())


def escape_json(text: str) -> Markup:
    """Return JSON with everything escaped that could end a script element, or begin another."""
    # In JSON these characters stand inside strings only. The last two end a line in older JavaScript.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


_NONE: Final = "'none'"


def _digests(texts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _source(name: str) -> str:
    source, _, _ = _loader().get_source(_environment(), name)
    # As an HTML parser reads line ends: the digests are of what it sees.
    return source.replace("\r\n", "\n")


@cache
def _loader() -> PackageLoader:
    return PackageLoader("bridge")


@cache
def _environment() -> Environment:
    return Environment(
        loader=_loader(),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

"""Self-contained HTML pages: one file, no network, nothing executed but what we ship.

Every page extends ``templates/base.html`` and may use ``templates/charts.html``. Its style sheets and scripts
stand inside it, and a content security policy lists their digests: a browser runs no other script and asks no
other host, whatever a slide or a class is called.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import IO, Any, Final

import msgspec
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from herohe_model import __version__
from herohe_model.notice import RESEARCH_USE_ONLY

SHARED_STYLE: Final = "page.css"


def write_page(
    file: IO[str],
    template: str,
    context: Mapping[str, Any],
    *,
    package: str,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    filters: Mapping[str, Callable[..., str]] | None = None,
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
    package
        Whose ``templates`` are looked into first, before those here.
    styles
        Names of files in ``templates``, after the one that all pages share.
    scripts
        Names of files in ``templates``, run in this order at the end of the page.
    filters
        What the template calls to format values, by name.
    files_beside
        Whether the page may load scripts and pictures that lie beside it.
    """
    environment = _environment(package)
    environment.filters.update(filters or {})
    sheets = [_source(environment, name) for name in (SHARED_STYLE, *styles)]
    code = [_source(environment, name) for name in scripts]
    beside = " 'self' file:" if files_beside else ""
    policy = (
        f"default-src 'none'; img-src data:{beside}; style-src {_digests(sheets)}; "
        f"script-src {_digests(code) or _NONE}{beside}; base-uri 'none'; form-action 'none'"
    )
    shared = {
        "policy": policy,
        "styles": [Markup(text) for text in sheets],
        "scripts": [Markup(text) for text in code],
        "version": __version__,
        "research_use_only": RESEARCH_USE_ONLY,
    }
    stream = environment.get_template(template).stream({**shared, **context})
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


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, name)
    # As an HTML parser reads line ends: the digests are of what it sees.
    return source.replace("\r\n", "\n")


@cache
def _environment(package: str) -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("herohe_model.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

"""The register of error codes."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import bridge
import herohe_model
from bridge.protocol.errors import ERRORS, LOCAL_ERRORS, SERVER_ERRORS
from herohe_model.errors import HeroheError

_SAID = re.compile(r'(?:Refusal|TaskFailure|Failed|JobFailed)\(\s*(?:job\.job,\s*|number,\s*)?"([a-z_]+)"')


def kinds(base: type[HeroheError]) -> Iterator[type[HeroheError]]:
    """The tree below `base`, and itself."""
    yield base
    for kind in base.__subclasses__():
        if kind.__module__.partition(".")[0] in ("bridge", "herohe_model"):
            yield from kinds(kind)


def test_every_error_with_a_code_of_its_own_is_registered_once() -> None:
    for package in (bridge, herohe_model):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    own = [kind for kind in kinds(HeroheError) if "code" in vars(kind)]
    codes = [kind.code for kind in own]
    assert len(codes) == len(set(codes))
    assert set(codes) == ERRORS.keys() | LOCAL_ERRORS
    assert not ERRORS.keys() & LOCAL_ERRORS
    assert all(ERRORS[kind.code] is kind for kind in own if kind.code in ERRORS)


def test_what_a_server_says_by_itself_is_registered() -> None:
    room = Path(bridge.__path__[0])
    files = [*room.glob("server/*.py"), *room.glob("protocol/*.py")]
    said = {code for file in files for code in _SAID.findall(file.read_text(encoding="utf-8"))}
    assert {"malformed", "busy", "stopping", "worker_died"} <= said
    assert said <= ERRORS.keys() | SERVER_ERRORS.keys()
    assert not ERRORS.keys() & SERVER_ERRORS.keys()

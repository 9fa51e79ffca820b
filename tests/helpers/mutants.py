"""Damaged copies of sound files, the same for the same seed: for tests of what reads files of strangers."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from herohe_model.errors import HeroheError

_ODD: list[Any] = [
    *(None, True, -1, 0, 2**63, 10**30, -1e308, 1e-320, "", "x" * 5000, "\x1b[2J", "\ud83d\ude00", "=1+1"),
    *([], {}, [[]], {"type": "Feature"}, {"": None}, [None] * 50, {"a": {"b": {"c": []}}}),
]


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0 if found:
                found[min(place, len(found) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del found[place : place + rng.randint(1, 40)]
            case 2:
                found[place:place] = found[place : place + rng.randint(1, 200)]
            case 3:
                found[place:place] = rng.choice(
                    [b"\0", b"\xff", b"[" * 200, b"{", b'"', b"NaN", b"1e999", b"-", b"\\ud800", b"9" * 400]
                )
            case _:
                del found[place:]
        if not found:
            break
    return bytes(found)


def mutated_json(document: Any, rng: random.Random) -> Any:
    """Return a document with one to three of its values, keys or lengths changed."""
    copy = json.loads(json.dumps(document))
    for _ in range(rng.randint(1, 3)):
        holders = list(_holders(copy))
        if not holders:
            return rng.choice(_ODD)
        holder, key = rng.choice(holders)
        match rng.randrange(5):
            case 0:
                holder[key] = rng.choice(_ODD)
            case 1:
                del holder[key]
            case 2 if isinstance(holder, list):
                holder.extend(holder[:20])
            case 3:
                deep: Any = holder[key]
                for _ in range(rng.choice([1, 3, 120])):
                    deep = [deep] if rng.random() < 0.5 else {"childObjects": [deep], "type": "Feature"}
                holder[key] = deep
            case _:
                other, name = rng.choice(holders)
                holder[key] = json.loads(json.dumps(other[name]))
    return copy


def mutated_text_of(document: Any, rng: random.Random) -> bytes:
    """Return JSON of a changed document, or damaged JSON of a sound one."""
    if rng.random() < 0.6:
        return json.dumps(mutated_json(document, rng)).encode("utf-8", "surrogatepass")
    return mutated_bytes(json.dumps(document).encode(), rng)


def mutated_zip(data: bytes, rng: random.Random) -> bytes:
    """Return an archive with one member damaged, or a damaged archive."""
    if rng.random() < 0.3:
        return mutated_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice(sorted(members))
    members[name] = mutated_bytes(members[name], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return file.getvalue()


def refused(read: Callable[[], object]) -> bool:
    """Read something; False when it could be read, True when it was refused as everything must be refused."""
    try:
        read()
    except HeroheError as error:
        assert str(error).isprintable() or "\n" in str(error)
        return True
    return False


def _holders(document: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(document, dict):
        pairs: list[tuple[Any, Any]] = list(document.items())
    elif isinstance(document, list):
        pairs = list(enumerate(document))
    else:
        return
    for key, value in pairs:
        yield document, key
        yield from _holders(value)

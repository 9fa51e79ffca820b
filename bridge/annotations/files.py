"""The files of annotations that lie beside slides: which belongs to which slide, and what is in them.

QuPath writes ``.geojson``, ``.geojson.gz`` and ``.zip``, and proposes ``x.geojson`` for ``x.ome.tif``; other
programs write ``.json``. Capitals and the normal form of Unicode make no difference, as they make none to who
looks at a list of files. What might be meant for a slide and cannot be used is an error: were it passed over,
the whole slide would be scored instead of what was drawn.
"""

from __future__ import annotations

import gzip
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from bridge.annotations.geojson import MAX_BYTES
from herohe_model.errors import RegionError

RESULT_SUFFIX: Final = ".her2-he.geojson"
"""End of the name of the files that a run writes for QuPath."""

_CERTAIN: Final = (".geojson.gz", ".geojson")
_POSSIBLE: Final = (".json.gz", ".json", ".zip")
_MEMBERS: Final = (".geojson", ".json")


@dataclass(frozen=True)
class AnnotationFiles:
    """The files of a folder that may hold annotations, by slide; made by :func:`find_annotation_files`.

    Attributes
    ----------
    strays
        Those that are certainly annotations, and belong to no slide.
    """

    _by_slide: dict[str, tuple[Path, ...]]
    _rivals: dict[Path, tuple[str, ...]]
    strays: tuple[Path, ...]

    @property
    def used(self) -> frozenset[Path]:
        """Those that may belong to a slide."""
        return frozenset(path for found in self._by_slide.values() for path in found)

    def of(self, slide: str) -> Path | None:
        """Return the file of a slide, None without one.

        Raises
        ------
        RegionError
            If two files could be it, or it could belong to two slides.
        """
        found = self._by_slide.get(slide, ())
        if len(found) > 1:
            raise RegionError(f"Both {found[0]} and {found[1]} could be the annotations", "Keep one of them")
        if not found:
            return None
        rivals = self._rivals[found[0]]
        if len(rivals) > 1:
            ending = _split(found[0].name)[1]
            raise RegionError(
                f"{found[0]} could belong to {rivals[0]} and to {rivals[1]}",
                f"Rename it to {rivals[0]}{ending}, or to that of the other",
            )
        return found[0]


def find_annotation_files(paths: Iterable[Path], slides: Sequence[str]) -> AnnotationFiles:
    """Find which of a folder's files hold the annotations of which slide.

    Parameters
    ----------
    paths
        Everything in the folder, whether it can be read or not.
    slides
        Names of the slides' files.
    """
    by_name = _slides_by_name(slides)
    rivals: dict[Path, tuple[str, ...]] = {}
    meant: dict[str, list[Path]] = {}
    for path in paths:
        stem, ending = _split(path.name)
        if not ending or path.name.lower().endswith(RESULT_SUFFIX):
            continue
        rivals[path] = next((names[key] for names, key in _ways(by_name, stem) if key in names), ())
        for slide in rivals[path]:
            meant.setdefault(slide, []).append(path)
    by_slide = {}
    for slide, found in meant.items():
        certain = [path for path in found if _split(path.name)[1] in _CERTAIN]
        by_slide[slide] = tuple(sorted(certain or found, key=lambda path: (-len(path.name), path.name)))
    strays = [path for path, owners in rivals.items() if not owners and _split(path.name)[1] in _CERTAIN]
    return AnnotationFiles(by_slide, rivals, tuple(sorted(strays)))


def read_texts(path: Path) -> list[tuple[str, bytes]]:
    """Return the GeoJSON texts of a file, each with what to call it in errors.

    It is one text, but for an archive: that may hold several, or none, being the slide's own for example.

    Raises
    ------
    RegionError
        If it cannot be read, or is absurdly large.
    """
    ending = _split(path.name)[1]
    try:
        with path.open("rb") as file:
            if ending == ".zip":
                return _members(file, path)
            if ending.endswith(".gz"):
                with gzip.open(file) as unpacked:
                    return [(str(path), _bounded(unpacked, path))]
            return [(str(path), _bounded(file, path))]
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise RegionError(f"{path} is damaged ({error})", "Export it again from QuPath") from error
    except (NotImplementedError, RuntimeError, ValueError) as error:
        # zipfile's words for an unknown method, a password, and a name that is none.
        raise RegionError(f"{path} cannot be unpacked ({error})", "Unpack it beside the slide") from error
    except OSError as error:
        raise RegionError(
            f"{path} cannot be read ({error.strerror or error})",
            "Check that it is there and its permissions, or move it away to score the slide without it",
        ) from error


def folded(name: str) -> str:
    """Return a name without what makes no difference to who reads it: capitals, and Unicode's normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def slide_stems(slide: str) -> tuple[str, ...]:
    """Return what files that lie beside a slide may be called before their own ending, longest first."""
    stem = Path(slide).stem
    return (slide, stem, Path(stem).stem) if stem.lower().endswith(".ome") else (slide, stem)


def _members(file: IO[bytes], path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        members = [
            info
            for info in archive.infolist()
            if info.filename.lower().endswith(_MEMBERS) and not info.filename.startswith("__MACOSX/")
        ]
        if sum(info.file_size for info in members) > MAX_BYTES:
            raise _too_large(path)
        found = []
        for info in members:
            with archive.open(info) as member:
                found.append((f"{path}, {info.filename}", _bounded(member, path)))
        return found


def _bounded(file: IO[bytes] | gzip.GzipFile, path: Path) -> bytes:
    data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _too_large(path)
    return data


def _too_large(path: Path) -> RegionError:
    return RegionError(f"{path} is larger than {MAX_BYTES >> 20} MiB", "Export the annotations only")


def _split(name: str) -> tuple[str, str]:
    """Return a file's name without the ending of a file of annotations, and the ending in small letters."""
    for ending in (*_CERTAIN, *_POSSIBLE):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)], ending
    return name, ""


_ByName = list[tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]]


def _slides_by_name(slides: Sequence[str]) -> _ByName:
    """Return for each way to be called after a slide the slides by that name, as it stands and folded."""
    found: _ByName = []
    for level in range(3):
        exact: dict[str, tuple[str, ...]] = {}
        alike: dict[str, tuple[str, ...]] = {}
        for slide in slides:
            stems = slide_stems(slide)
            if level < len(stems):
                for names, key in ((exact, stems[level]), (alike, folded(stems[level]))):
                    names[key] = (*names.get(key, ()), slide)
        found.append((exact, alike))
    return found


def _ways(by_name: _ByName, stem: str) -> Iterator[tuple[dict[str, tuple[str, ...]], str]]:
    """Yield where to look a file's stem up: as it is spelled first, then as it reads."""
    yield from ((exact, stem) for exact, _ in by_name)
    yield from ((alike, folded(stem)) for _, alike in by_name)

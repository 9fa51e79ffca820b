"""ZeroMQ for QuPath: JeroMQ and its CURVE cryptography, two jars of exactly these versions and no other.

They are brought from Maven Central by jgo, and believed only when their checksum is the one that stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from herohe_model.errors import HeroheError
from herohe_model.files import sha256_of


class JarError(HeroheError):
    """A jar that QuPath needs cannot be had, or is another than it should be."""

    code = "jar"


@dataclass(frozen=True)
class Jar:
    """A jar on Maven Central and the SHA-256 of its content, hexadecimal."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinate(self) -> str:
        """How Maven calls it."""
        return f"{self.group}:{self.artifact}:{self.version}"


JARS: Final = (
    Jar(
        "org.zeromq",
        "jeromq",
        "0.6.0",
        "4784ff6d6e91b8eecd917b73d07b161c19a808ef870a5bdb760515bb67e208d3",
    ),
    Jar(
        "eu.neilalexander",
        "jnacl",
        "1.0.0",
        "4accc9d2a56a6dd5198ec5e1c5c05a091da563bccd346fd6578edc083152beaa",
    ),
)
"""JeroMQ, and the library that it needs for CURVE."""


def find_jars(given: Iterable[Path] = (), wanted: Sequence[Jar] = JARS) -> dict[str, Path]:
    """Return where the jars are, by file name: those that were given, the others through jgo.

    Raises
    ------
    JarError
        If one of them cannot be had, or its checksum is wrong.
    """
    found = {}
    for path in given:
        sha256 = sha256_of(path)
        jar = next((jar for jar in wanted if jar.sha256 == sha256), None)
        if jar is None:
            known = " or ".join(jar.name for jar in wanted)
            what = (
                "There is no file"
                if sha256 is None
                else "Its checksum is not that of the jar that was tested:"
            )
            raise JarError(f"{what} {path}", f"Name an unchanged {known} with --jar")
        found[jar.name] = path
    for jar in wanted:
        if jar.name not in found:
            found[jar.name] = _bring(jar)
    return found


def _bring(jar: Jar) -> Path:
    """Return the jar from jgo's cache, after it was brought there if need be."""
    # Heavy, and only needed here.
    from jgo.maven import MavenContext

    otherwise = (
        f"Connect to the network, or bring {jar.coordinate} from Maven Central on another machine "
        "and name the file with --jar"
    )
    try:
        component = MavenContext().project(jar.group, jar.artifact).at_version(jar.version)
        path = Path(component.artifact(packaging="jar").resolve())
    except (OSError, RuntimeError, ValueError) as error:
        # requests' exceptions are OSErrors.
        raise JarError(f"{jar.name} cannot be brought ({_first_line(error)})", otherwise) from error
    if sha256_of(path) != jar.sha256:
        raise JarError(
            f"{path} is not the {jar.name} that was tested: its checksum differs",
            "Remove that file and run again; if it differs again, somebody may be changing your downloads",
        )
    return path


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__

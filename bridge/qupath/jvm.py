"""QuPath's own classes in this process: the one module that imports paquo, and only when it is asked to.

Importing paquo starts a Java machine, which can be done once in a process and never undone. It is started so
that Ctrl-C still reaches Python, nothing is printed into the command line's output, and no window is needed.
"""

from __future__ import annotations

import importlib
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bridge.annotations.classes import (
    MARK,
    MEASUREMENT_PREFIX,
    OWN_COMPONENTS,
    TILE_CLASS,
    Colour,
)
from herohe_model.errors import QuPathNotFoundError

OLDEST: Final = "0.5.0"
NEWEST_TESTED: Final = "0.7"
_FIRST_UNTESTED: Final = "0.8.0-m0"

INSTALL: Final = (
    "Install QuPath 0.7 from qupath.github.io, or run 'paquo get_qupath'; one elsewhere is named by the "
    "environment variable PAQUO_QUPATH_DIR. 'herohe-bridge doctor' says what is found"
)

_JAVA_OPTIONS: Final = (
    "-Xrs",  # leave Ctrl-C and termination to Python, which has servers to stop and files to close
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",  # or Java 24 and newer print a warning about JPype
    "-XX:TieredStopAtLevel=1",  # most runs end before thorough compiling pays: half the time to start
    # QuPath collects all garbage each time it opens a slide, for a native library that is long loaded; the
    # larger the heap, the longer that takes: up to seconds a slide.
    "-XX:+DisableExplicitGC",
)


@dataclass(frozen=True)
class QuPath:
    """A running Java machine with QuPath's classes.

    Attributes
    ----------
    version
        As QuPath says it, such as ``0.7.0``.
    directory
        Where it is installed.
    is_tested
        False for one that is newer than what this was tested with.
    """

    version: str
    directory: Path
    is_tested: bool

    def java(self, name: str) -> Any:
        """Return the Java class of this full name."""
        return _java_class(name)

    @cached_property
    def throwable(self) -> type[Exception]:
        """What every Java exception is an instance of."""
        found: type[Exception] = self.java("java.lang.Throwable")
        return found

    @cached_property
    def data(self) -> Any:
        """The bulk operations of ``HeroheData.groovy``, compiled when first asked for."""
        source = resources.files("qupath_scripts").joinpath("HeroheData.groovy").read_text(encoding="utf-8")
        loader = self.java("groovy.lang.GroovyClassLoader")(
            self.java("qupath.lib.io.PathIO").class_.getClassLoader()
        )
        made = _java_class(loader.parseClass(source))
        own = self.java("java.util.ArrayList")()
        for component in OWN_COMPONENTS:
            own.add(component)
        return made(own, TILE_CLASS, MEASUREMENT_PREFIX, MARK)

    @cached_property
    def openslide(self) -> bool:
        """Load QuPath's OpenSlide: until that is done, its reader opens nothing. False if it cannot be."""
        loader = self.java("qupath.lib.images.servers.openslide.jna.OpenSlideLoader")
        return bool(loader.tryToLoadQuietly())

    def strings(self, values: Sequence[str]) -> Any:
        """Return a Java array of strings."""
        import jpype

        return jpype.JArray(jpype.JString)(list(values))

    def doubles(self, values: NDArray[np.float64]) -> Any:
        """Return a Java array of arrays of doubles, of a two-dimensional one."""
        import jpype

        return jpype.JArray(jpype.JDouble, 2)(values)

    def colour(self, colour: Colour) -> Any:
        """Return a colour as QuPath packs it into an integer."""
        red, green, blue = colour
        return self.java("qupath.lib.common.ColorTools").packRGB(red, green, blue)

    def open_project(self, path: Path) -> Any:
        """Return paquo's read-only project of a ``.qpproj`` file."""
        from paquo.projects import QuPathProject

        return QuPathProject(path, mode="r")

    def new_project(self, folder: Path) -> Any:
        """Return paquo's project made in a folder that is empty or not there yet."""
        from paquo.projects import QuPathProject

        return QuPathProject(folder, mode="x")

    @property
    def brightfield_he(self) -> Any:
        """Paquo's name of QuPath's image type Brightfield (H&E)."""
        from paquo.images import QuPathImageType

        return QuPathImageType.BRIGHTFIELD_H_E

    @contextmanager
    def file_input(self, path: Path) -> Iterator[Any]:
        """Open a file as a Java input stream."""
        stream = self.java("java.io.FileInputStream")(str(path))
        try:
            yield stream
        finally:
            stream.close()


@cache
def start_qupath() -> QuPath:
    """Start QuPath's Java machine, or return the one that runs.

    Raises
    ------
    QuPathNotFoundError
        If paquo finds no QuPath, or it is too old, or its Java machine does not start.
    """
    from paquo import settings

    given = settings.java_opts
    options = shlex.split(given) if isinstance(given, str) else list(given)
    settings.set("java_opts", [*options, *(option for option in _JAVA_OPTIONS if option not in options)])
    try:
        import paquo.java as java
    except (ValueError, OSError, TypeError) as error:
        raise QuPathNotFoundError(f"paquo found no usable QuPath ({error})", INSTALL) from error
    except RuntimeError as error:
        raise QuPathNotFoundError(f"QuPath's Java machine did not start ({error})", INSTALL) from error

    system = java.System
    # QuPath logs to its standard output, which here is the command line's. Before paquo's own redirection
    # is imported, because that goes back to what it finds now.
    system.setOut(java.PrintStream(_java_class("java.io.OutputStream").nullOutputStream()))
    # QuPath formats colours with the default locale, and reads back only what English gives.
    locale = _java_class("java.util.Locale")
    locale.setDefault(locale.US)
    logging.getLogger("paquo").addHandler(logging.NullHandler())
    importlib.import_module("paquo.projects")  # it sets the log level that is changed next
    if java.LogManager is not None:
        java.LogManager.setWarn()
    directory = Path(str(system.getProperty("java.library.path")))
    found = java.qupath_version
    if found is None or found < type(found)(OLDEST):
        raise QuPathNotFoundError(
            f"The QuPath in {directory} is version {found or 'unknown'}; the oldest supported is {OLDEST}",
            INSTALL,
        )
    return QuPath(
        version=str(found),
        directory=_install_directory(directory),
        is_tested=found < type(found)(_FIRST_UNTESTED),
    )


def qupath_facts() -> dict[str, Any]:
    """Say what is known about the QuPath that would be used; for ``herohe-bridge doctor``.

    Returns
    -------
    dict
        ``version``, ``directory``, ``java``, ``supported``, ``openslide`` and ``user_directory`` ("" when it
        was never set), with a ``remedy`` where something is to be done; or ``problem`` and ``remedy``.
    """
    try:
        qupath = start_qupath()
    except QuPathNotFoundError as error:
        return {"problem": error.problem, "remedy": error.remedy}
    user = qupath.java("qupath.lib.gui.UserDirectoryManager").getInstance().getUserPath()
    facts: dict[str, Any] = {
        "version": qupath.version,
        "directory": str(qupath.directory),
        "java": str(qupath.java("java.lang.System").getProperty("java.version")),
        "supported": qupath.is_tested,
        "openslide": qupath.openslide,
        "user_directory": str(user) if user is not None else "",
    }
    if not facts["supported"]:
        facts["remedy"] = (
            f"It is newer than {NEWEST_TESTED}, the newest tested: try it on a copy of a project"
        )
    elif not facts["openslide"]:
        facts["remedy"] = "Its OpenSlide does not load: install QuPath again"
    return facts


def _install_directory(app: Path) -> Path:
    """Return the folder that QuPath was installed into, of the one that holds its jars."""
    # Windows: QuPath/app; Linux: QuPath/lib/app; macOS: QuPath.app/Contents/app.
    return app.parents[1] if app.parent.name in ("lib", "Contents") else app.parent


@cache
def _java_class(name: Any) -> Any:
    import jpype

    return jpype.JClass(name)

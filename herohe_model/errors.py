"""Every error the project raises on purpose.

::

    HeroheError
    ├── SlideError                 a slide cannot be used
    │   ├── SlideNotFoundError         no such file
    │   ├── SlideUnreadableError       not a slide, truncated, or damaged
    │   │   └── SlideFatalError            damaged so that it ends the process that reads it
    │   ├── SlideScaleError            no usable µm/px
    │   └── UnsuitableSlideError       not what a model is for, such as another stain than H&E
    ├── RegionError                an annotation or GeoJSON file cannot be used
    ├── ModelFileError             a model file is damaged, foreign or of another version
    ├── DeviceError                a device was asked for that is not there
    ├── ServerError                the model server
    │   ├── ServerUnavailableError     none found, none answering, none could be started
    │   ├── ServerBusyError            no answer before the deadline
    │   ├── WorkerDiedError            workers do not survive what they are given
    │   ├── ProtocolError              a message that breaks the protocol, or another protocol version
    │   └── RemoteError                the server answered a request with an error
    ├── ProjectError               a QuPath project or folder of slides
    │   ├── ProjectNotFoundError       no project there
    │   ├── QuPathNotFoundError        no QuPath, or one that paquo does not support
    │   ├── EntryDamagedError          an entry's data exist but cannot be read
    │   ├── EntryChangedError          an entry's data changed since they were read
    │   └── WriteBackError             what was written is not what was read back
    ├── OptionError                options that contradict each other or the model
    └── CancelledError             the user asked to stop

Libraries' exceptions are turned into these where they arise. A message is one or two sentences: what is
wrong, naming the file, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar, Final

from herohe_model.printable import printable

ALLOW: Final = "Check that it is there, its permissions, and that the disk is not full"
"""Remedy for what the system refused."""


def os_problem(error: OSError) -> str:
    """Return what the system refused, with the file it was about; a sentence without its full stop."""
    where = f"{error.filename} " if error.filename is not None else "a file "
    return f"{where}cannot be used ({error.strerror or error})"


class HeroheError(Exception):
    """Base of the tree.

    Parameters
    ----------
    problem
        What is wrong, with the file's name; a sentence without its full stop.
    remedy
        What the user can do; a sentence without its full stop. May be empty.

    Attributes
    ----------
    code
        Stable identifier that travels in protocol errors and in the manifest.
    """

    code: ClassVar[str] = "error"

    def __init__(self, problem: str, remedy: str = "") -> None:
        # Names of files and what stands in them come into every message: none of it reaches a terminal raw.
        self.problem = printable(problem)
        self.remedy = printable(remedy)
        super().__init__(self.problem, self.remedy)

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}." if self.remedy else f"{self.problem}."


class SlideError(HeroheError):
    """A slide cannot be used."""

    code = "slide"


class SlideNotFoundError(SlideError):
    """There is no such slide file."""

    code = "slide_not_found"


class SlideUnreadableError(SlideError):
    """The file is no slide, or a truncated or damaged one."""

    code = "slide_unreadable"


class SlideFatalError(SlideUnreadableError):
    """The file is damaged in a way that ends every process that reads it.

    Attributes
    ----------
    path
        The file, "" where that is not known.
    """

    code = "slide_fatal"

    def __init__(self, problem: str, remedy: str = "", *, path: str = "") -> None:
        super().__init__(problem, remedy)
        self.path = path


class SlideScaleError(SlideError):
    """The slide says nothing usable about its µm/px."""

    code = "slide_scale"


class UnsuitableSlideError(SlideError):
    """The slide is fine, but not what a model is for."""

    code = "unsuitable"


class RegionError(HeroheError):
    """An annotation or a GeoJSON file cannot be used."""

    code = "region"


class ModelFileError(HeroheError):
    """A model file is damaged, foreign, or of another format version."""

    code = "model_file"


class DeviceError(HeroheError):
    """A compute device was asked for that is not there."""

    code = "device"


class ServerError(HeroheError):
    """Something about the model server."""

    code = "server"


class ServerUnavailableError(ServerError):
    """No server was found, none answers, or none could be started."""

    code = "server_unavailable"


class ServerBusyError(ServerError):
    """The server did not answer before the deadline."""

    code = "server_busy"


class WorkerDiedError(ServerError):
    """The workers of a server or a cluster do not survive what they are given."""

    code = "worker_died"


class ProtocolError(ServerError):
    """A message breaks the protocol, or speaks another version of it."""

    code = "protocol"


class RemoteError(ServerError):
    """The server answered a request with an error.

    Attributes
    ----------
    remote_code
        The ``code`` of the error on the server's side.
    """

    code = "remote"

    def __init__(self, problem: str, remedy: str = "", *, remote_code: str = "error") -> None:
        super().__init__(problem, remedy)
        self.remote_code = remote_code


class ProjectError(HeroheError):
    """Something about a QuPath project or a folder of slides."""

    code = "project"


class ProjectNotFoundError(ProjectError):
    """There is no project where one was named."""

    code = "project_not_found"


class QuPathNotFoundError(ProjectError):
    """No QuPath was found, or one that paquo does not support."""

    code = "qupath_not_found"


class EntryDamagedError(ProjectError):
    """An entry has data that cannot be read; nothing of it is touched."""

    code = "entry_damaged"


class EntryChangedError(ProjectError):
    """An entry's data changed between reading and writing."""

    code = "entry_changed"


class WriteBackError(ProjectError):
    """What was read back after writing is not what was written."""

    code = "write_back"


class OptionError(HeroheError):
    """Options contradict each other or the model."""

    code = "option"


class CancelledError(HeroheError):
    """The user asked to stop."""

    code = "cancelled"

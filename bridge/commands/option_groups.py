"""Options that belong together, given to a command as one value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def option_group(name: str, make: Callable[..., object], *options: Decorator) -> Decorator:
    """Return the decorator that adds options to a command, and hands them over as one argument.

    Parameters
    ----------
    name
        Of the command's argument.
    make
        Makes its value of the options, each given by its name, when the command runs: what is slow to import
        is imported there, so that ``--help`` stays quick.
    options
        As :func:`click.option` makes them, in the order of ``--help``.
    """
    alone = click.Command(name)
    for option in options:
        option(alone)
    keys = [parameter.name for parameter in alone.params if parameter.name]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*arguments: Any, **given: Any) -> Any:
            given[name] = make(**{key: given.pop(key) for key in keys})
            return function(*arguments, **given)

        decorated: Callable[..., Any] = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate

"""Errors for our own log: what they are and where they came from, without their words."""

from __future__ import annotations

_INSTEAD = "(its words are left out: they may quote what was said)"


def without_words(error: BaseException) -> BaseException:
    """An error of the same class, with the traceback of this one and without its arguments.

    The messages of `int()`, of validators and of encoders quote the value that they refuse.
    The errors that led to it are left out with their words.
    """
    kind = type(error)
    try:
        shown = type(kind.__name__, (kind,), {"__str__": _words, "__module__": kind.__module__})
        shown.__qualname__ = kind.__qualname__
        made = shown.__new__(shown)
    except Exception:  # a class that is particular about how it is made
        made = RuntimeError(f"{kind.__module__}.{kind.__qualname__} {_INSTEAD}")
    made.__suppress_context__ = True
    return made.with_traceback(error.__traceback__)


def _words(_: object) -> str:
    return _INSTEAD

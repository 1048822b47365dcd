"""Reads options from environment variables. A bad value is reported once and not used."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ._option import PREFIX, Option

_logger = logging.getLogger("llamatelemetry.config")

# Several parts of one process resolve the configuration; each complaint is said once.
_reported: set[str] = set()


class OptionValue(NamedTuple):
    """A value and where it came from."""

    value: object
    origin: str


def is_ours(given: OptionValue) -> bool:
    """Whether a value comes from a variable of ours rather than of OpenTelemetry's."""
    return given.origin.startswith(PREFIX)


def warn_once(message: str) -> None:
    """Logs a warning unless this process has logged the same one before."""
    if message not in _reported:
        _reported.add(message)
        _logger.warning("%s", message)


def read_environment(
    options: Mapping[str, Option], environ: Mapping[str, str]
) -> tuple[dict[str, OptionValue], frozenset[str]]:
    """The options given by the environment, and the names of those given but refused."""
    _report_unknown(options, environ)
    given: dict[str, OptionValue] = {}
    refused: set[str] = set()
    for name, option in options.items():
        for read in (_read_own, _read_otel):
            try:
                found = read(option, environ)
            except ValueError as error:
                warn_once(str(error))
                refused.add(name)
                # Not the next source: a typing error must not bring an older setting back.
                break
            if found is not None:
                given[name] = found
                break
    return given, frozenset(refused)


def _set_variables(names: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    # OpenTelemetry: an empty value is the same as an unset variable.
    return {name: text for name in names if (text := environ.get(name, "").strip())}


def _read_own(option: Option, environ: Mapping[str, str]) -> OptionValue | None:
    if option.variable is None:
        return None
    found = _set_variables((option.variable,), environ)
    return _read(option, found, lambda: option.reader.read(found[str(option.variable)]))


def _read_otel(option: Option, environ: Mapping[str, str]) -> OptionValue | None:
    found = _set_variables(option.otel_variables, environ)
    read_otel = option.read_otel
    if read_otel is not None:
        return _read(option, found, lambda: read_otel(found))
    return _read(option, found, lambda: option.reader.read(*found.values()))


def _read(
    option: Option, found: Mapping[str, str], read: Callable[[], object]
) -> OptionValue | None:
    if not found:
        return None
    try:
        value = read()
    except ValueError:
        name, text = next(iter(found.items()))
        raise ValueError(f"{option.refusal(name, text)}; {option.if_refused}") from None
    return None if value is None else OptionValue(value, ", ".join(found))


def _report_unknown(options: Mapping[str, Option], environ: Mapping[str, str]) -> None:
    known = {option.variable for option in options.values() if option.variable}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            warn_once(f"{name} is not a variable of llamatelemetry; {_advice(name, options)}")


def _advice(name: str, options: Mapping[str, Option]) -> str:
    field = name.removeprefix(PREFIX).lower()
    if field in options:
        option = options[field]
        named = option.variable or next(iter(option.otel_variables), None)
        return f"use {named}" if named else f"{field} can be given in code only"
    return f"the nearest is {nearest(name, [o.variable for o in options.values() if o.variable])}"


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that is spelled most like the given one."""
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]

"""Option values from environment variables and from a declarative configuration file.

An invalid value is logged once and ignored. In the file, options are in the section that
OpenTelemetry's schema reserves for distributions:

    # OTEL_CONFIG_FILE
    distribution:
      llamatelemetry:
        sampling: only_errors
        redact_keys: [user.email, "*.secret"]
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, cast

from llamatelemetry._limits import Limit
from llamatelemetry.config._option import PREFIX, Option
from llamatelemetry.config.declarative import load_config_file

_FILE_ORIGIN = "configuration file"
_SECTION = "llamatelemetry"

_logger = logging.getLogger("llamatelemetry.config")

# The configuration is resolved several times in one process, but a warning is logged once.
_logged: dict[str, None] = {}
_LIMIT: Final = Limit("logged_options", 256, "Warnings about options that were logged")


class OptionValue(NamedTuple):
    """A value and its origin: a variable, `configuration file`, `argument`, `config` or `default`."""

    value: object
    origin: str


def warn_once(message: str) -> None:
    """Log a warning unless this process has logged the same text before."""
    if message not in _logged:
        _logged[message] = None
        _LIMIT.trim(_logged)
        _logger.warning("%s", message)


def read_environment(
    options: Mapping[str, Option], environ: Mapping[str, str]
) -> tuple[dict[str, OptionValue], frozenset[str]]:
    """Return the options from the environment, and the names of options with invalid values."""
    _warn_of_unknown_variables(options, environ)
    values: dict[str, OptionValue] = {}
    invalid: set[str] = set()
    for name, option in options.items():
        try:
            value = _read_variables(option, environ)
        except ValueError as error:
            warn_once(str(error))
            invalid.add(name)
        else:
            if value is not None:
                values[name] = value
    return values, frozenset(invalid)


def _read_variables(option: Option, environ: Mapping[str, str]) -> OptionValue | None:
    """Return the value of the first source that gives one.

    Raises:
        ValueError: A value is invalid. The remaining sources are skipped, because a typo must
            not activate an older setting.
    """

    def parse_text(variables: Mapping[str, str]) -> object:
        return option.parser.parse(*variables.values())

    own = (option.variable,) if option.variable else ()
    for names, parse in (
        (own, parse_text),
        (option.otel_variables, option.parse_otel or parse_text),
    ):
        # OpenTelemetry's specification: an empty value equals an unset variable.
        found = {name: text for name in names if (text := environ.get(name, "").strip())}
        if not found:
            continue
        try:
            value = parse(found)
        except ValueError:
            message = option.invalid_value_message(*next(iter(found.items())))
            raise ValueError(f"{message}. {option.on_invalid}") from None
        if value is not None:
            return OptionValue(value, ", ".join(found))
    return None


def _warn_of_unknown_variables(options: Mapping[str, Option], environ: Mapping[str, str]) -> None:
    known = {option.variable for option in options.values() if option.variable}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            warn_once(f"Ignored unknown variable {name}. {_advice(name, options)}")


def _advice(name: str, options: Mapping[str, Option]) -> str:
    field = name.removeprefix(PREFIX).lower()
    if field in options:
        option = options[field]
        variable = option.variable or next(iter(option.otel_variables), None)
        return f"Use {variable}" if variable else f"Set {field} in code"
    variables = [option.variable for option in options.values() if option.variable]
    return f"Did you mean {nearest(name, variables)}?"


def read_file(
    options: Mapping[str, Option], environ: Mapping[str, str]
) -> tuple[dict[str, OptionValue], frozenset[str]]:
    """Return the options of the file in `OTEL_CONFIG_FILE`, and the names of invalid ones."""
    path = environ.get("OTEL_CONFIG_FILE", "").strip()
    values: dict[str, OptionValue] = {}
    invalid: set[str] = set()
    for name, value in _section(path).items() if path else ():
        where = f"distribution.{_SECTION}.{name}"
        if name not in options or name == "span_processors":
            is_known = name in options
            advice = (
                f"Set {name} in code" if is_known else f"Did you mean {nearest(name, options)}?"
            )
            warn_once(f"Ignored unknown option {where} of {path}. {advice}")
            continue
        option = options[name]
        try:
            if value is not None and value != "":
                values[name] = OptionValue(option.parser.parse(value), _FILE_ORIGIN)
        except (ValueError, OverflowError):
            warn_once(f"{option.invalid_value_message(where, value)}. {option.on_invalid}")
            invalid.add(name)
    return values, frozenset(invalid)


def _section(path: str) -> Mapping[str, object]:
    try:
        modified_ns = os.stat(path).st_mtime_ns  # noqa: PTH116 - the path may be any text
    except (OSError, ValueError):
        # The SDK reads the same file and reports the error.
        return {}
    return _load(path, modified_ns)


@functools.lru_cache(maxsize=4)
def _load(path: str, _modified_ns: int) -> Mapping[str, object]:
    try:
        sections: Any = load_config_file(path).distribution or {}
    except Exception as error:
        _logger.debug("Cannot read options from %s: %s", path, error)
        return {}
    return cast("Mapping[str, object]", sections.get(_SECTION) or {})


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the name with the most similar spelling."""
    import difflib  # only a message about an unknown name needs it

    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]

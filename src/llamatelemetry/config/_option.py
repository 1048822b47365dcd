"""The declaration of one option: what the environment, describe() and the docs all read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, field
from typing import Any, NamedTuple, cast

from ._values import Reader

PREFIX = "LLAMATELEMETRY_"
_METADATA_KEY = "llamatelemetry.option"

# "user:password@" of a URL.
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


class Option(NamedTuple):
    """One option: how it is read, where it is given, what it is when not given."""

    reader: Reader
    doc: str
    variable: str | None = None
    """Our own variable."""
    otel_variables: tuple[str, ...] = ()
    """OpenTelemetry's variables for the same thing."""
    read_otel: Callable[[Mapping[str, str]], object] | None = None
    """Reads those of `otel_variables` that are set; None means that they say nothing about
    this option. Without it, the variable takes the same values as ours."""
    default: object = None
    default_text: str | None = None
    """The default in words, where the value does not say it."""
    secret: bool = False
    if_refused: str = "the default is used"
    """What happens after a bad value in the environment."""

    @property
    def default_doc(self) -> str:
        """The default as the documentation shows it."""
        if self.default_text is not None:
            return self.default_text
        return self.shown(self.default)

    def shown(self, value: object) -> str:
        """The value as text for people, without anything secret."""
        if value is None:
            return "unset"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            items = cast("tuple[object, ...]", value)
            return ", ".join(self.masked(str(item)) for item in items) or "unset"
        return self.masked(str(value))

    def masked(self, text: str) -> str:
        """The text of a value without anything secret."""
        return "***" if self.secret else _USER_INFO.sub("***@", text)

    def refusal(self, name: str, value: object) -> str:
        """The one text for a bad value, from the environment or from code."""
        return f"{name}={self.masked(repr(value))} is not accepted; expected {self.reader.accepts}"


def option(
    reader: Reader,
    own: str | None = None,
    *otel: str,
    doc: str,
    read_otel: Callable[[Mapping[str, str]], object] | None = None,
    default: object = None,
    default_text: str | None = None,
    secret: bool = False,
    if_refused: str = "the default is used",
    in_hash: bool | None = None,
) -> Any:
    """A dataclass field, None until given, that carries its Option; `own` without the prefix."""
    declared = Option(
        reader=reader,
        doc=doc,
        variable=own and PREFIX + own,
        otel_variables=otel,
        read_otel=read_otel,
        default=default,
        default_text=default_text,
        secret=secret,
        if_refused=if_refused,
    )
    return field(default=None, hash=in_hash, metadata={_METADATA_KEY: declared})


def options_of(fields: Mapping[str, Field[Any]]) -> dict[str, Option]:
    """The options among a dataclass's fields, in order of declaration."""
    return {
        name: declared.metadata[_METADATA_KEY]
        for name, declared in fields.items()
        if _METADATA_KEY in declared.metadata
    }

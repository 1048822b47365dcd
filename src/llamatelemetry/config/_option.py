"""Declaration of one option, used by all sources, by `describe()` and by the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field
from typing import Any, NamedTuple, cast

from llamatelemetry.config._parsers import URL, WEB_ADDRESSES, ValueParser
from llamatelemetry.config._urls import mask_url, mask_urls

PREFIX = "LLAMATELEMETRY_"
USES_DEFAULT = "Using the default"
_METADATA_KEY = "llamatelemetry.option"
_MASK = "***"


class Option(NamedTuple):
    """One option.

    Attributes:
        parser: Parser of its values.
        doc: Description, without a final period.
        variable: Environment variable `LLAMATELEMETRY_*`.
        otel_variables: OpenTelemetry's environment variables for the same setting.
        parse_otel: Parser of the `otel_variables` that are set; returns `None` if they do not
            concern this option. Without it, they accept the same values as `variable`.
        default: Value if no source gives one.
        default_text: Description of the default if the value alone is not clear.
        secret: Whether the value is masked in messages and in `describe()`.
        on_invalid: Consequence of an invalid value in the environment, for the warning.
    """

    parser: ValueParser
    doc: str
    variable: str | None = None
    otel_variables: tuple[str, ...] = ()
    parse_otel: Callable[[Mapping[str, str]], object] | None = None
    default: object = None
    default_text: str | None = None
    secret: bool = False
    on_invalid: str = USES_DEFAULT

    @property
    def default_doc(self) -> str:
        """The default for the documentation."""
        if self.default_text is not None:
            return self.default_text
        return self.shown(self.default)

    def shown(self, value: object) -> str:
        """Return a value for display, secrets masked."""
        if value is None:
            return "unset"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            items = cast("tuple[object, ...]", value)
            return ", ".join(self.masked(str(item)) for item in items) or "unset"
        return self.masked(str(value))

    def masked(self, text: str) -> str:
        """Return the text of a value with secrets masked."""
        if self.secret:
            return _MASK
        # An endpoint may lack the scheme, by which other texts show that they contain a URL.
        return mask_url(text) if self.parser in (URL, WEB_ADDRESSES) else mask_urls(text)

    def described(self, value: object) -> str:
        """Return the `repr` of a value with secrets masked."""
        if self.secret:
            return _MASK
        if isinstance(value, str):
            return repr(self.masked(value))
        if isinstance(value, (list, tuple)):
            items = cast("Sequence[object]", value)
            shown = [self.masked(item) if isinstance(item, str) else item for item in items]
            return repr(shown if isinstance(value, list) else tuple(shown))
        return self.masked(repr(value))

    def invalid_value_message(self, name: str, value: object) -> str:
        """Return the error message for an invalid value from any source."""
        return f"{name} must be {self.parser.accepts}, got {self.described(value)}"


def option(
    parser: ValueParser,
    own: str | None = None,
    *otel: str,
    in_hash: bool | None = None,
    **settings: Any,
) -> Any:
    """Declare a dataclass field with its `Option`. The field is `None` until a value is given.

    `own` is the environment variable without the prefix `LLAMATELEMETRY_`, `otel` are
    OpenTelemetry's variables, `in_hash` is the argument `hash` of `dataclasses.field`, and
    `settings` are further fields of `Option`.
    """
    variable = own and PREFIX + own
    declared = Option(parser, variable=variable, otel_variables=otel, **settings)
    return field(default=None, hash=in_hash, metadata={_METADATA_KEY: declared})


def options_of(fields: Mapping[str, Field[Any]]) -> dict[str, Option]:
    """Return the options among the fields of a dataclass, in order of declaration."""
    return {
        name: declared.metadata[_METADATA_KEY]
        for name, declared in fields.items()
        if _METADATA_KEY in declared.metadata
    }

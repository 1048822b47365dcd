"""A command line as it is stored and shown: without code, texts and secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Final

from llamatelemetry.config import SECRET_PARAMETER, mask_url
from llamatelemetry.otel.redaction.redactor import Redactor
from llamatelemetry.otel.redaction.rules import Rules

_HIDDEN: Final = "…"
_LONGEST: Final = 200
_SECRET_OPTION: Final = re.compile(rf"-{{0,2}}{SECRET_PARAMETER}", re.IGNORECASE)


def shown_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return a command line with `…` in place of what its telemetry does not contain either.

    Hidden are code behind `-c`, arguments with spaces (they may be prompts), long arguments, and
    values of options such as `--api-key`. Keys and passwords inside other arguments are redacted.
    Bytes that are not UTF-8, as in the names of old files, are replaced: no file can store them.
    """
    return tuple(_shown([os.fsencode(each).decode(errors="replace") for each in arguments]))


def _shown(arguments: Sequence[str]) -> Iterator[str]:
    secrets = Redactor(Rules.of(False, (), "secrets", _HIDDEN)).start()
    before = ""
    for number, argument in enumerate(arguments):
        option, equals, _ = argument.partition("=")
        if number and (before == "-c" or _SECRET_OPTION.fullmatch(f"{before}=")):
            yield _HIDDEN
        elif equals and _SECRET_OPTION.fullmatch(f"{option}="):
            yield f"{option}={_HIDDEN}"
        elif number and (len(argument) > _LONGEST or len(argument.split()) > 1):
            yield _HIDDEN
        else:
            yield secrets.redact_secrets(mask_url(argument) if "://" in argument else argument)
        before = argument if argument.startswith("-") else ""

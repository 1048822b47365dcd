"""Objectives for the latency of a request, and what counts as having met them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llamatelemetry.bench.records import RequestRecord

_UNITS_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}
_QUANTITY: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s)")
NAMES: Final = ("ttft", "ttfo", "tpot", "e2e")


def read_slo(given: Mapping[str, Any] | str | None) -> dict[str, float]:
    """Read objectives: ``"ttft=500ms,tpot=50ms"``, or a dict of the same words or of seconds.

    Raises:
        ValueError: something in it is not known.
    """
    if given is None:
        return {}
    if isinstance(given, str):
        pairs = [part.partition("=") for part in given.split(",") if part.strip()]
        given = {name.strip(): value.strip() for name, _, value in pairs}
    return {_name(name): _seconds(name, value) for name, value in given.items()}


def _name(name: str) -> str:
    short = name.removesuffix("_s")
    if short not in NAMES:
        raise ValueError(f"no objective {name!r}; accepted: {', '.join(NAMES)}")
    return short


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)):
        value = float(match["number"]) * _UNITS_S[match["unit"]]
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name}={value!r}: expected a time such as 500ms or 1.5s, or seconds")
    return float(value)


def meets(record: RequestRecord, slo: Mapping[str, float]) -> bool:
    """Say whether a request was answered within all objectives.

    A reply of one token has no time per output token, so that objective holds nothing against
    it. A figure that should be there and is not known is not within the objective.
    """
    if not record.ok:
        return False
    for name, limit_s in slo.items():
        value: float | None = getattr(record, f"{name}_s")
        if value is None:
            if name == "tpot" and record.output_tokens is not None and record.output_tokens < 2:
                continue
            return False
        if value > limit_s:
            return False
    return True

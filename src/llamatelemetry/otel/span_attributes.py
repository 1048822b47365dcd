"""Setting attributes of a span without looking into each where all are plain.

OpenTelemetry's SDK takes each attribute through four functions, to make something of values that
no attribute can have. That is a tenth of all that we add to a call of a model, and ours are plain.

What stands in for ``set_attributes`` is its last step, which is not public. So it is used only
with the versions of the SDK that it has been compared with, and where nothing would be cut off
or thrown out. Elsewhere, and with other makers' spans, ``set_attributes`` is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.otel.points import COMPARED

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

_PLAIN: Final = frozenset({str, int, float, bool, tuple})


def set_attributes(span: Span, attributes: dict[str, AttributeValue]) -> None:
    """Do what ``span.set_attributes`` does.

    Args:
        span: any.
        attributes: their names are not empty; a tuple among the values has strings only.
    """
    sdks: Any = span
    if _is_sdks(span.__class__) and _PLAIN.issuperset(map(type, attributes.values())):
        with sdks._lock:
            kept = sdks._attributes
            present: dict[str, AttributeValue] = kept._dict
            if (
                sdks._end_time is None
                and kept.max_value_len is None
                and (kept.maxlen is None or len(present) + len(attributes) <= kept.maxlen)
                and present.keys().isdisjoint(attributes)
            ):
                with kept._lock:  # held by whoever reads them all
                    present.update(attributes)
                return
    span.set_attributes(attributes)


@lru_cache(maxsize=16)
def _is_sdks(kind: Any) -> bool:
    """Whether this is the SDK's own class of spans, of a version that is known."""
    if kind.__module__ != "opentelemetry.sdk.trace":
        return False

    from opentelemetry.sdk import trace
    from opentelemetry.sdk.version import __version__

    internal: Any = trace
    return kind is internal._Span and __version__.startswith(COMPARED)

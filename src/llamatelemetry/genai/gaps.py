"""The times between the chunks of a stream, one histogram point each.

A point costs the SDK some 8 µs while its code and data are in the processor's cache, and more
than twice that between two chunks, when everything else has just passed through it. So the gaps
are noted as they come and recorded in small batches: often enough that neither a batch nor the
last one, at the stream's end, is a pause that anybody could notice, and that a slow stream shows
in the metrics while it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.util.types import AttributeValue

    Record = Callable[[float, dict[str, AttributeValue]], None]

_BATCH: Final = 64
_BATCH_NS: Final = 1_000_000_000


class ChunkGaps:
    """The gaps of one stream.

    Args:
        record: takes a gap in seconds and the attributes of its point.
        attributes: gives those attributes; asked once, after the second chunk: with some
            servers the first does not name the model.
    """

    __slots__ = ("_attributes", "_gaps_ns", "_known", "_last_ns", "_record", "_since_ns")

    def __init__(self, record: Record, attributes: Callable[[], dict[str, AttributeValue]]) -> None:
        self._record = record
        self._attributes = attributes
        self._known: dict[str, AttributeValue] | None = None
        self._gaps_ns: list[int] = []
        self._last_ns = 0
        self._since_ns = 0

    def chunk(self, now_ns: int) -> None:
        """A chunk has come, at a reading of ``time.perf_counter_ns``."""
        last_ns, self._last_ns = self._last_ns, now_ns
        if not last_ns:
            self._since_ns = now_ns
            return
        gaps_ns = self._gaps_ns
        gaps_ns.append(now_ns - last_ns)
        if len(gaps_ns) >= _BATCH or now_ns - self._since_ns >= _BATCH_NS:
            self._since_ns = now_ns
            self.flush()

    def flush(self) -> None:
        """Record what has not been recorded."""
        gaps_ns, self._gaps_ns = self._gaps_ns, []
        if not gaps_ns:
            return
        if self._known is None:
            self._known = self._attributes()
        record, attributes = self._record, self._known
        for gap_ns in gaps_ns:
            record(gap_ns / 1e9, attributes)

"""The times between the chunks of a stream, one histogram point each.

A point costs the SDK some 8 µs while its code and data are in the processor's cache, and more
than twice that between two chunks, when everything else has just passed through it. So the gaps
are noted as they come and recorded in small batches: often enough that neither a batch nor the
last one, at the stream's end, is a pause that anybody could notice, and that a slow stream shows
in the metrics while it runs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamatelemetry.otel.points import AttributeSet

    Record = Callable[[Sequence[float], AttributeSet], None]

_BATCH: Final = 64
_BATCH_NS: Final = 1_000_000_000


class ChunkIntervals:
    """The gaps of one stream.

    Args:
        record: takes gaps in seconds and the attributes of their points.
        attributes: gives those attributes; asked once, after the second chunk: with some
            servers the first does not name the model.
    """

    __slots__ = ("_attributes", "_known", "_record", "_times_ns")

    def __init__(self, record: Record, attributes: Callable[[], AttributeSet]) -> None:
        self._record = record
        self._attributes = attributes
        self._known: AttributeSet | None = None
        self._times_ns: list[int] = []  # the first is the end of the last gap recorded

    def chunk(self, now_ns: int) -> None:
        """A chunk has come, at a reading of ``time.perf_counter_ns``."""
        times_ns = self._times_ns
        times_ns.append(now_ns)
        if len(times_ns) > _BATCH or now_ns - times_ns[0] >= _BATCH_NS:
            self.flush()

    def flush(self) -> None:
        """Record what has not been recorded."""
        times_ns, self._times_ns = self._times_ns, self._times_ns[-1:]
        if len(times_ns) < 2:
            return
        if self._known is None:
            self._known = self._attributes()
        gaps_s = [(later - earlier) / 1e9 for earlier, later in pairwise(times_ns)]
        self._record(gaps_s, self._known)

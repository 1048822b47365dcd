"""The intervals between the chunks of a stream, one histogram measurement each.

Recording a measurement between two chunks takes up to 28 µs. The times of chunks are therefore
only collected, and their intervals recorded in batches. A batch is recorded at least once a
second, so that the metrics show a slow stream while it runs.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    Attributes = Mapping[str, AttributeValue]
    Record = Callable[[Sequence[float], Attributes], None]

_BATCH: Final = 64
_BATCH_NS: Final = 1_000_000_000


class ChunkIntervals:
    """The intervals between the chunks of one stream.

    Args:
        record: Records intervals in seconds with the attributes of their measurements.
        attributes: Returns those attributes. It is called once, after the second chunk, because
            the first chunk of some servers does not name the model.
    """

    __slots__ = ("_attributes", "_known", "_record", "_times_ns")

    def __init__(self, record: Record, attributes: Callable[[], Attributes]) -> None:
        self._record = record
        self._attributes = attributes
        self._known: Attributes | None = None
        self._times_ns: list[int] = []  # The first is the end of the last recorded interval.

    def add(self, now_ns: int) -> None:
        """Add a chunk that arrived at a reading of `time.perf_counter_ns`."""
        times_ns = self._times_ns
        times_ns.append(now_ns)
        if len(times_ns) > _BATCH or now_ns - times_ns[0] >= _BATCH_NS:
            self.flush()

    def flush(self) -> None:
        """Record the intervals that are not recorded yet."""
        times_ns, self._times_ns = self._times_ns, self._times_ns[-1:]
        if len(times_ns) < 2:
            return
        if self._known is None:
            self._known = self._attributes()
        # An array takes a quarter of a list's memory while the batch is queued.
        intervals_s = array("d", [(end - start) / 1e9 for start, end in pairwise(times_ns)])
        self._record(intervals_s, self._known)

"""Recording of the intervals between chunks, one measurement each, in small batches."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest

from llamatelemetry.genai.streams.chunk_intervals import ChunkIntervals

SECOND_NS = 1_000_000_000


class Recorded:
    """The recorded batches of one stream."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.attribute_calls = 0
        self.intervals = ChunkIntervals(self.record, self.attributes)

    def record(self, seconds, attributes):
        assert attributes == {"gen_ai.response.model": "smol"}
        self.batches.append(list(seconds))

    def attributes(self) -> dict[str, str]:
        self.attribute_calls += 1
        return {"gen_ai.response.model": "smol"}


@pytest.mark.parametrize("chunks", [0, 1, 2, 64, 65, 66, 129, 1000])
def test_chunk_intervals_record_every_interval_once(chunks):
    recorded = Recorded()
    times_ns = list(accumulate(range(5, 5 + chunks)))
    for time_ns in times_ns:
        recorded.intervals.chunk(time_ns)
    recorded.intervals.flush()
    recorded.intervals.flush()
    together = [interval for batch in recorded.batches for interval in batch]
    assert together == [(later - earlier) / 1e9 for earlier, later in pairwise(times_ns)]
    assert max((len(batch) for batch in recorded.batches), default=0) <= 64
    assert recorded.attribute_calls == (chunks > 1)


def test_chunk_intervals_record_slow_stream_while_it_runs():
    recorded = Recorded()
    for time_ns in (1, SECOND_NS // 2, SECOND_NS + 1):
        recorded.intervals.chunk(time_ns)
    assert [len(batch) for batch in recorded.batches] == [2]

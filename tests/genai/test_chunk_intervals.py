"""Each gap between two chunks is one point, in batches that nobody notices."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest

from llamatelemetry.genai.chunk_intervals import ChunkIntervals
from llamatelemetry.otel.points import AttributeSet

SECOND_NS = 1_000_000_000


class Recorded:
    """What a stream's gaps are handed to."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.asked = 0
        self.gaps = ChunkIntervals(self.record, self.attributes)

    def record(self, seconds, attributes):
        assert attributes == {"gen_ai.response.model": "smol"}
        self.batches.append(list(seconds))

    def attributes(self) -> AttributeSet:
        self.asked += 1
        return AttributeSet({"gen_ai.response.model": "smol"})


@pytest.mark.parametrize("chunks", [0, 1, 2, 64, 65, 66, 129, 1000])
def test_every_gap_is_recorded_once_however_many_there_are(chunks):
    recorded = Recorded()
    times_ns = list(accumulate(range(5, 5 + chunks)))
    for time_ns in times_ns:
        recorded.gaps.chunk(time_ns)
    recorded.gaps.flush()
    recorded.gaps.flush()
    together = [gap for batch in recorded.batches for gap in batch]
    assert together == [(later - earlier) / 1e9 for earlier, later in pairwise(times_ns)]
    assert max((len(batch) for batch in recorded.batches), default=0) <= 64
    assert recorded.asked == (chunks > 1)


def test_a_slow_stream_shows_while_it_runs():
    recorded = Recorded()
    for time_ns in (1, SECOND_NS // 2, SECOND_NS + 1):
        recorded.gaps.chunk(time_ns)
    assert [len(batch) for batch in recorded.batches] == [2]

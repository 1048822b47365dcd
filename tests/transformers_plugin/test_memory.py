"""Peak memory of each call, from an allocator that keeps one peak for all of them.

The allocator of these tests counts as that of `torch.cuda` does. The tests set what it allocates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry_instrumentation_transformers._memory import MemoryPeak, PeakMemoryTracker
from tests.support.recorder import Recorder
from tests.support.transformers_models import encoded, llama
from tests.transformers_plugin.conftest import only

GPU = "cuda:0"


class Allocator:
    """The counters of `torch.cuda` for one device."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def set(self, allocated: int) -> None:
        self.now = allocated
        self.peak = max(self.peak, allocated)

    def memory_allocated(self, device: Any) -> int:
        return self.now

    def max_memory_allocated(self, device: Any) -> int:
        return self.peak

    def reset_peak_memory_stats(self, device: Any) -> None:
        self.peak = self.now


def started(tracker: PeakMemoryTracker) -> MemoryPeak:
    peak = tracker.start([GPU])
    assert peak is not None
    return peak


def test_peak_of_call_excludes_earlier_calls() -> None:
    allocator = Allocator()
    tracker = PeakMemoryTracker(allocator)
    allocator.set(900)
    allocator.set(100)
    call = started(tracker)
    allocator.set(300)
    allocator.set(120)
    tracker.stop(call)
    assert call.peaks == {GPU: 300}
    assert call.allocated == [120]


def test_concurrent_calls_have_separate_peaks() -> None:
    allocator = Allocator()
    tracker = PeakMemoryTracker(allocator)
    first = started(tracker)
    allocator.set(500)
    allocator.set(100)
    # This resets the counter, after the first call has stored its value.
    second = started(tracker)
    allocator.set(200)
    tracker.stop(second)
    allocator.set(300)
    tracker.stop(first)
    assert first.peaks == {GPU: 500}
    assert second.peaks == {GPU: 200}


def test_tracker_keeps_measurement_of_application() -> None:
    allocator = Allocator()
    tracker = PeakMemoryTracker(allocator)
    allocator.reset_peak_memory_stats(GPU)
    call = started(tracker)
    allocator.set(700)
    allocator.set(0)
    tracker.stop(call)
    assert allocator.max_memory_allocated(GPU) == 700


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(0, 1000)),
        st.tuples(st.just("start"), st.just(0)),
        st.tuples(st.just("stop"), st.integers(0, 5)),
    ),
    max_size=40,
)


@given(EVENTS)
def test_peak_of_call_is_maximum_of_its_duration_for_any_event_order(events: list[Any]) -> None:
    allocator = Allocator()
    tracker = PeakMemoryTracker(allocator)
    running: list[tuple[MemoryPeak, list[int]]] = []
    ended: list[tuple[MemoryPeak, list[int]]] = []
    for action, value in events:
        if action == "allocate":
            allocator.set(value)
            for _, seen in running:
                seen.append(value)
        elif action == "start":
            running.append((started(tracker), [allocator.now]))
        elif running:
            call, seen = running.pop(value % len(running))
            tracker.stop(call)
            ended.append((call, seen))
    for call, seen in ended:
        assert call.peaks == {GPU: max(seen)}


def test_call_on_cpu_records_no_memory(instrumented: Recorder) -> None:
    llama().generate(**encoded("Hello"), max_new_tokens=2)
    assert not [name for name in only(instrumented).attributes if "cuda" in name]
    assert PeakMemoryTracker().start([]) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no GPU")
def test_call_on_gpu_records_memory(instrument: Callable[..., Recorder]) -> None:
    recorder = instrument()
    model = llama().to("cuda")
    inputs = {name: tensor.to("cuda") for name, tensor in encoded("Hello").items()}
    torch.cuda.reset_peak_memory_stats()
    model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)
    span = only(recorder)
    assert span.attributes["llamatelemetry.cuda.devices"] == ("cuda:0",)
    assert span.attributes["llamatelemetry.cuda.memory_peak"] == (
        torch.cuda.max_memory_allocated(),
    )
    assert span.attributes["llamatelemetry.cuda.memory_allocated"][0] > 0

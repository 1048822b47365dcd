"""Tail sampling on a real SDK provider, judged by the spans that the exporter receives."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import tracemalloc
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from llamatelemetry.otel.processor_chains import install_tail_sampler, remove_tail_sampler
from llamatelemetry.otel.sampling.rules import Policy, is_sampled, ratio_sampler
from llamatelemetry.otel.sampling.tail_sampler import TailSampler, _counts

ERRORS = Policy(errors=True)
FAILED = {"llamatelemetry.sampling.rule": "error", "llamatelemetry.sampling.rate": 1.0}


class Sampled:
    """A provider with a tail sampler in front of its exporter."""

    def __init__(self, policy: Policy = ERRORS, **options) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(
            shutdown_on_exit=False, span_limits=options.pop("span_limits", None)
        )
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.gate = TailSampler(policy, **options)
        assert install_tail_sampler(self.provider, self.gate, ())
        self.tracer = self.provider.get_tracer("test")

    def start(self, name: str, parent: trace.Span | None = None, **options) -> trace.Span:
        context = trace.Context() if parent is None else set_span_in_context(parent)
        return self.tracer.start_span(name, context, **options)

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


@pytest.fixture(autouse=True)
def counted_from_zero() -> None:
    _counts.clear()


def fail(span: trace.Span) -> None:
    span.set_status(StatusCode.ERROR, "bad")
    span.end()


def remote(trace_id: int, state: TraceState | None = None, flags: int = 1) -> trace.Span:
    return NonRecordingSpan(SpanContext(trace_id, 1, True, TraceFlags(flags), state))


class TestErrors:
    def test_sampler_keeps_whole_trace_with_error_and_drops_others(self):
        sampled = Sampled()
        for failing in (False, True):
            root = sampled.start("root")
            sampled.start("before", root).end()
            call = sampled.start("call", root)
            fail(call) if failing else call.end()
            sampled.start("after", root).end()
            root.end()
        assert sampled.names == ["before", "call", "after", "root"]
        assert len({span.context.trace_id for span in sampled.spans}) == 1
        assert sampled.gate.buffered_bytes == 0

    def test_error_passes_buffered_spans_on_at_once(self):
        sampled = Sampled()
        root = sampled.start("root")
        sampled.start("before", root).end()
        assert sampled.names == []
        fail(sampled.start("call", root))
        assert sampled.names == ["before", "call"]
        sampled.start("after", root).end()
        assert sampled.names == ["before", "call", "after"]

    @pytest.mark.parametrize(
        ("kept", "end"),
        [
            (True, lambda span: span.set_status(StatusCode.ERROR)),
            (True, lambda span: span.set_attribute("error.type", "timeout")),
            # A handled exception: the operation succeeded.
            (False, lambda span: span.record_exception(ValueError("x"))),
            (False, lambda span: span.set_status(StatusCode.OK)),
        ],
    )
    def test_error_rule_matches_error_status_or_error_type(self, kept, end):
        sampled = Sampled()
        root = sampled.start("root")
        end(root)
        root.end()
        assert sampled.names == (["root"] if kept else [])

    def test_kept_span_records_rule_and_rate(self):
        sampled = Sampled()
        fail(sampled.start("root", attributes={"a": 1}))
        (span,) = sampled.spans
        assert dict(span.attributes) == {"a": 1, **FAILED}
        assert span.context.trace_state == {}

    def test_recording_rule_drops_no_other_attribute(self):
        sampled = Sampled(span_limits=SpanLimits(max_span_attributes=2))
        root = sampled.start("root", attributes={"a": 1, "b": 2, "c": 3})
        fail(root)
        (span,) = sampled.spans
        assert dict(span.attributes) == {"b": 2, "c": 3, **FAILED}
        assert span.dropped_attributes == 1


class TestSlow:
    @pytest.mark.parametrize(("lasted_s", "kept"), [(1.999, False), (2.0, True), (9.0, True)])
    def test_slow_rule_keeps_trace_from_threshold_on(self, lasted_s, kept):
        sampled = Sampled(Policy(slow_s=2.0))
        root = sampled.start("root", start_time=10**18)
        sampled.start("child", root, start_time=10**18).end(10**18 + 1)
        root.end(10**18 + round(lasted_s * 1e9))
        assert sampled.names == (["child", "root"] if kept else [])
        assert {s.attributes["llamatelemetry.sampling.rule"] for s in sampled.spans} <= {"slow"}

    def test_slow_rule_keeps_trace_when_child_outlives_root(self):
        sampled = Sampled(Policy(slow_s=2.0))
        root = sampled.start("root", start_time=10**18)
        child = sampled.start("child", root, start_time=10**18)
        root.end(10**18 + 10)
        assert sampled.names == []
        child.end(10**18 + 3 * 10**9)
        assert sampled.names == ["root", "child"]


class TestCombined:
    def test_trace_is_kept_when_any_rule_keeps_it(self):
        policy = Policy.named("only_errors,only_slow,ratio", rate=0.25, slow_s=1.0)
        assert policy == Policy(errors=True, slow_s=1.0, rate=0.25)
        sampled = Sampled(policy)
        for number in range(400):
            root = sampled.start("root", start_time=10**18)
            sampled.start("child", root).end()
            if number % 4 == 0:
                root.set_status(StatusCode.ERROR)
            root.end(10**18 + (2 * 10**9 if number % 4 == 1 else 1))
        roots = [span for span in sampled.spans if span.name == "root"]
        rules = Counter(span.attributes["llamatelemetry.sampling.rule"] for span in roots)
        assert (rules["error"], rules["slow"]) == (100, 100)
        assert 19 <= rules["ratio"] <= 81  # of 200, 5 sigma
        assert len(sampled.spans) == 2 * len(roots)

    def test_adjusted_counts_of_kept_traces_estimate_all_traces(self):
        sampled = Sampled(Policy(errors=True, rate=0.5))
        for number in range(1000):
            root = sampled.start("root")
            fail(root) if number % 10 == 0 else root.end()
        weight = sum(1 / span.attributes["llamatelemetry.sampling.rate"] for span in sampled.spans)
        assert 850 <= weight <= 1150  # 5 sigma

    def test_ratio_is_in_tracestate_as_threshold(self):
        sampled = Sampled(Policy(errors=True, rate=0.25))
        state = TraceState([("vendor", "x"), ("ot", "rv:c0000000000000;other:1")])
        sampled.start("root", remote(1, state)).end()
        (span,) = sampled.spans
        assert span.context.trace_state.to_header() == "ot=th:c;rv:c0000000000000;other:1,vendor=x"

    def test_smaller_ratio_of_earlier_sampler_stays_in_tracestate(self):
        sampled = Sampled(Policy(rate=0.5))
        state = TraceState([("ot", "th:f;rv:ff000000000000")])
        sampled.start("root", remote(1, state)).end()
        (span,) = sampled.spans
        assert span.context.trace_state == state
        assert span.attributes["llamatelemetry.sampling.rate"] == 1 / 16

    def test_error_rule_records_rate_of_earlier_sampler(self):
        sampled = Sampled()
        fail(sampled.start("root", remote(1, TraceState([("ot", "th:c")]))))
        (span,) = sampled.spans
        expected = {"llamatelemetry.sampling.rule": "error", "llamatelemetry.sampling.rate": 0.25}
        assert dict(span.attributes) == expected
        assert span.context.trace_state.to_header() == "ot=th:c"


class TestIsSampled:
    @pytest.mark.parametrize(
        ("randomness", "state", "kept"),
        [
            (0xBFFFFFFFFFFFFF, None, False),
            (0xC0000000000000, None, True),
            (0, "rv:c0000000000000", True),
            (0xC0000000000000, "rv:00000000000000", False),
            (0xC0000000000000, "rv:0", False),
            (0xC0000000000000, "rv:nonsense", True),
        ],
    )
    def test_is_sampled_uses_last_56_bits_of_trace_id(self, randomness, state, kept):
        given = TraceState([("ot", state)]) if state else None
        assert is_sampled((123 << 56) + randomness, given, 0.25) is kept

    def test_is_sampled_keeps_nothing_at_0_and_everything_at_1(self):
        ids = [random.getrandbits(128) for _ in range(1000)]
        assert not any(is_sampled(each, None, 0.0) for each in ids)
        assert all(is_sampled(each, None, 1.0) for each in ids)


class TestRatioSampler:
    def start(self, sampler, parent: trace.Span | None = None):
        """Start a root and its child. Return those that are recorded."""
        exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        root = tracer.start_span("root", set_span_in_context(parent) if parent else None)
        tracer.start_span("child", set_span_in_context(root), attributes={"a": 1}).end()
        root.end()
        return exporter.get_finished_spans()

    def test_every_span_records_ratio(self):
        spans = self.start(ratio_sampler(1.0))
        recorded = {"llamatelemetry.sampling.rule": "ratio", "llamatelemetry.sampling.rate": 1.0}
        assert [dict(span.attributes) for span in spans] == [{"a": 1, **recorded}, recorded]
        assert {span.context.trace_state.to_header() for span in spans} == {"ot=th:0"}
        assert self.start(ratio_sampler(0.0)) == ()

    @pytest.mark.parametrize(
        ("flags", "state", "rates"),
        [
            (1, None, [None, None]),  # sampled by an unknown sampler
            (1, TraceState([("ot", "th:e")]), [0.125, 0.125]),
            (0, None, []),
        ],
    )
    def test_ratio_sampler_follows_decision_of_parent(self, flags, state, rates):
        spans = self.start(ratio_sampler(0.0), remote(5, state, flags))
        assert [span.attributes.get("llamatelemetry.sampling.rate") for span in spans] == rates


class TestOpenSpans:
    def test_trace_is_decided_when_last_child_ends(self):
        sampled = Sampled()
        root = sampled.start("root")
        stream = sampled.start("stream", root)
        root.end()
        assert sampled.names == []
        fail(stream)
        assert sampled.names == ["root", "stream"]

    def test_late_child_is_kept_when_trace_was_kept(self):
        sampled = Sampled()
        root = sampled.start("root")
        fail(root)
        sampled.start("late", root).end()
        assert sampled.names == ["root", "late"]

    def test_late_child_is_decided_on_its_own_when_trace_was_dropped(self):
        sampled = Sampled()
        root = sampled.start("root")
        root.end()
        sampled.start("late", root).end()
        fail(sampled.start("late failure", root))
        assert sampled.names == ["late failure"]

    def test_span_started_before_sampler_is_decided(self):
        sampled = Sampled()
        remove_tail_sampler(sampled.provider, sampled.gate)
        one, other = sampled.start("one"), sampled.start("other")
        gate = TailSampler(ERRORS)
        assert install_tail_sampler(sampled.provider, gate, ())
        one.end()
        fail(other)
        assert sampled.names == ["other"]
        assert gate.buffered_bytes == 0

    def test_ratio_applies_to_span_started_before_sampler(self):
        sampled = Sampled()
        remove_tail_sampler(sampled.provider, sampled.gate)
        span = sampled.start("one")
        assert install_tail_sampler(sampled.provider, TailSampler(Policy(rate=1.0)), ())
        span.end()
        assert sampled.names == ["one"]

    def test_root_that_never_ends_blocks_only_its_own_trace(self):
        sampled = Sampled()
        leaked = sampled.start("leaked")
        sampled.start("child", leaked).end()
        fail(sampled.start("root"))
        assert sampled.names == ["root"]


class TestParents:
    def test_span_with_remote_parent_is_local_root(self):
        sampled = Sampled()
        for number in (1, 2):
            server = sampled.start("server", remote(number))
            call = sampled.start("call", server)
            fail(call) if number == 2 else call.end()
            server.end()
        assert [span.context.trace_id for span in sampled.spans] == [2, 2]
        assert _counts.traces == {"kept": 1, "dropped": 1}

    def test_each_request_of_shared_trace_is_decided_when_it_ends(self):
        sampled = Sampled()
        sampled.start("first", remote(7)).end()
        fail(sampled.start("second", remote(7)))
        sampled.start("third", remote(7)).end()  # the trace is already kept
        assert sampled.names == ["second", "third"]

    def test_unsampled_parent_drops_span(self):
        sampled = Sampled()
        fail(sampled.start("server", remote(1, flags=0)))
        assert sampled.names == []


class TestChain:
    def test_processors_in_front_receive_every_span_and_downstream_ones_kept_spans(self):
        seen: list[tuple[str, str]] = []

        class Watching(SpanProcessor):
            def __init__(self, name: str) -> None:
                self.name = name

            def on_start(self, span, parent_context=None):
                seen.append((self.name, "start"))

            def _on_ending(self, span):
                seen.append((self.name, "ending"))

            def on_end(self, span):
                seen.append((self.name, "end"))

        front, back, later = Watching("front"), Watching("back"), Watching("later")
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(front)
        provider.add_span_processor(back)
        gate = TailSampler(ERRORS)
        assert install_tail_sampler(provider, gate, [front])
        assert not install_tail_sampler(provider, TailSampler(ERRORS), [front])
        provider.add_span_processor(later)
        assert gate.downstream == (back, later)
        provider.get_tracer("test").start_span("fine").end()
        steps = [(n, step) for step in ("start", "ending") for n in ("front", "back", "later")]
        assert seen == [*steps, ("front", "end")]
        remove_tail_sampler(provider, gate)
        seen.clear()
        provider.get_tracer("test").start_span("fine").end()
        assert seen == [*steps, *((name, "end") for name in ("front", "back", "later"))]

    def test_force_flush_decides_only_traces_whose_root_has_ended(self):
        sampled = Sampled(Policy(rate=1.0))
        done, running = sampled.start("done", remote(1)), sampled.start("running", remote(2))
        straggler = sampled.start("straggler", done)
        sampled.start("child", running).end()
        done.end()
        assert sampled.names == []
        assert sampled.provider.force_flush()
        assert sampled.names == ["done"]
        straggler.end()
        running.end()
        assert sampled.names == ["done", "straggler", "child", "running"]

    def test_shutdown_decides_every_trace(self):
        sampled = Sampled(Policy(rate=1.0))
        root = sampled.start("root")
        sampled.start("child", root).end()
        sampled.start("nothing has ended of this one")
        sampled.provider.shutdown()
        assert sampled.names == ["child"]

    def test_install_raises_when_provider_is_not_the_sdks(self):
        with pytest.raises(TypeError, match="does not have the span processors of the SDK"):
            install_tail_sampler(trace.NoOpTracerProvider(), TailSampler(ERRORS), ())


class TestBounds:
    @pytest.mark.slow
    def test_sampler_decides_10000_concurrent_traces(self):
        # All traces are open at once, and 1% have an error in a child.
        sampled = Sampled()
        roots = [sampled.start(f"root {number}") for number in range(10_000)]
        for root in roots:
            attributes = {f"gen_ai.attribute.{n}": n for n in range(10)}
            sampled.start("call", root, attributes=attributes).end()
        assert len(sampled.names) == 0
        failing = set(random.Random(8).sample(range(10_000), 100))
        order = list(range(10_000))
        random.Random(9).shuffle(order)
        for number in order:
            if number in failing:
                fail(sampled.start("failing", roots[number]))
            roots[number].end()
        expected = {roots[number].get_span_context().trace_id for number in failing}
        found = Counter(span.context.trace_id for span in sampled.spans)
        assert found == dict.fromkeys(expected, 3)
        assert sampled.gate.buffered_bytes == 0
        assert _counts.spans == {"kept": 300, "dropped": 19_800}
        assert _counts.traces == {"kept": 100, "dropped": 9_900}

    @pytest.mark.slow
    def test_buffer_is_bounded(self, caplog):
        # More spans than fit: memory stays within the limit, and lost spans are counted.
        limit = 2 * 2**20
        sampled = Sampled(max_bytes=limit)
        roots = [sampled.start(f"root {number}") for number in range(500)]
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        peak = 0
        for round_ in range(20):
            for number, root in enumerate(roots):
                sampled.start("call", root, attributes={"text": f"{round_}{number}" * 100}).end()
                peak = max(peak, sampled.gate.buffered_bytes)
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert peak <= limit
        assert used < 1.5 * limit
        assert _counts.spans["evicted"] > 9_000
        (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert "The tail sampler buffers more than 2 MiB" in record.getMessage()
        # Later spans of an evicted trace still follow the rules.
        fail(sampled.start("failing", roots[0]))
        roots[0].end()
        assert sampled.names[-2:] == ["failing", "root 0"]

    def test_number_of_traces_without_ended_spans_is_bounded(self):
        sampled = Sampled(max_bytes=100_000)
        leaked = [sampled.start("leaked") for _ in range(1_000)]
        assert sampled.gate.buffered_bytes <= 100_000
        fail(leaked[0])  # the trace was forgotten, so the span is decided on its own
        assert sampled.names == ["leaked"]

    def test_later_spans_of_kept_trace_are_kept_when_buffer_is_full(self):
        sampled = Sampled(max_bytes=20_000)
        kept, other = sampled.start("kept"), sampled.start("other")
        fail(sampled.start("failed", kept))
        for _ in range(20):
            sampled.start("child", other).end()
        sampled.start("later", kept).end()
        kept.end()
        assert sampled.names == ["failed", "later", "kept"]
        assert _counts.traces == {"kept": 1}

    def test_ratio_applies_to_evicted_spans(self):
        sampled = Sampled(Policy(errors=True, rate=1.0), max_bytes=10_000)
        root = sampled.start("root")
        for _ in range(10):
            sampled.start("child", root).end()
        assert sampled.names[:3] == ["child"] * 3
        root.end()
        assert sampled.names == [*["child"] * 10, "root"]


class TestConcurrency:
    def test_sampler_keeps_right_traces_in_threads_and_tasks(self):
        # Children of one trace end in other threads, and roots of many traces at the same time.
        sampled = Sampled()

        def request(number: int) -> None:
            root = sampled.start(f"root {number}")
            children = [sampled.start("child", root) for _ in range(3)]
            threads = [threading.Thread(target=child.end) for child in children]
            for thread in threads:
                thread.start()
            if number % 10 == 0:
                root.set_status(StatusCode.ERROR)
            root.end()
            for thread in threads:
                thread.join()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(request, range(200)))

        async def task(number: int) -> None:
            with sampled.tracer.start_as_current_span(f"task {number}") as root:
                child = asyncio.create_task(work())
                await asyncio.sleep(0)
                if number % 10 == 0:
                    root.set_status(StatusCode.ERROR)
            await child

        async def work() -> None:
            with sampled.tracer.start_as_current_span("work"):
                await asyncio.sleep(0.001)

        async def run() -> None:
            await asyncio.gather(*(task(number) for number in range(200)))

        asyncio.run(run())
        sizes = Counter(span.context.trace_id for span in sampled.spans)
        assert Counter(sizes.values()) == {4: 20, 2: 20}
        assert sampled.gate.buffered_bytes == 0

    def test_forked_child_does_not_send_buffered_spans_of_parent(self):
        sampled = Sampled()
        root = sampled.start("root")
        sampled.start("the parent's", root).end()
        held, forked = threading.Event(), threading.Event()

        def another_thread() -> None:
            with sampled.gate._lock:
                held.set()
                forked.wait(10)

        thread = threading.Thread(target=another_thread)
        thread.start()
        held.wait(10)
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns about a fork with threads, but servers do it.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            fail(sampled.start("the child's", root))
            os.write(writing, ",".join(sampled.names).encode())
            os._exit(0)
        forked.set()
        thread.join()
        os.close(writing)
        with os.fdopen(reading) as pipe:
            assert pipe.read() == "the child's"
        os.waitpid(pid, 0)
        fail(root)
        assert sampled.names == ["the parent's", "root"]


def test_two_metrics_count_decisions(monkeypatch):
    sampled = Sampled()
    fail(sampled.start("root"))
    for _ in range(3):
        root = sampled.start("root")
        sampled.start("child", root).end()
        root.end()
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(_counts, "is_shown", True)
    _counts.observe(provider.get_meter("test"))
    found = {
        (metric.name, point.attributes["llamatelemetry.sampling.decision"]): point.value
        for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    _counts.is_shown = False
    assert reader.get_metrics_data() is None
    provider.shutdown()
    assert found == {
        ("llamatelemetry.sampling.spans", "kept"): 1,
        ("llamatelemetry.sampling.spans", "dropped"): 6,
        ("llamatelemetry.sampling.traces", "kept"): 1,
        ("llamatelemetry.sampling.traces", "dropped"): 3,
    }

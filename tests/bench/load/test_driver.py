"""Open and closed load, conversations, and the start of latency measurements."""

from __future__ import annotations

import numpy as np
import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner, Conversation
from llamatelemetry.llama import LlamaCppClient
from tests.support.timed_server import Script, scripted_server

# Other processes on the machine can delay half of the requests by 20 ms, so a failure is retried.
# A wrong measurement fails every time.
retry_disturbed = pytest.mark.flaky(reruns=2, only_rerun="AssertionError")
STALL_S = 2.0
RATE = 20.0


@pytest.fixture(scope="module")
def serial_server(tmp_path_factory: pytest.TempPathFactory, realtime_priority: None):
    """Start a server that processes one request at a time, with a queue that clients cannot see."""
    with scripted_server(tmp_path_factory.mktemp("serial"), "--serial", "--slots", "1") as server:
        yield server


def measure(server, scripts, **options):
    runner = BenchmarkRunner(
        LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False, **options
    )
    return runner.run("scripted", [script.text() for script in scripts])


STALLED = [Script(i, work_s=STALL_S if i == 2 else 0.001) for i in range(10)]


def quantile_of(latencies, q=0.9):
    return float(np.quantile(list(latencies), q))


@pytest.mark.clock
class TestCoordinatedOmission:
    """The server stalls for 2 s while ten requests arrive within 0.5 s.

    Every caller from the third one waits for most of that time. A closed load sends the next
    request only after a response, so it sees a single slow request.
    """

    def truth(self, server, before):
        """Return the latencies from the scheduled times, by the clock of the server."""
        truths = {truth.id: truth for truth in server.truths()[before:]}
        started_ns = truths[0].received_ns
        return [(truths[i].ended_ns - started_ns) / 1e9 - i / RATE for i in range(10)]

    @retry_disturbed
    def test_open_load_includes_wait_behind_a_stall(self, serial_server):
        before = len(serial_server.truths())
        results = measure(serial_server, STALLED, rate=RATE, arrival="constant")
        true = quantile_of(self.truth(serial_server, before), 0.5)
        assert results.figures["e2e"].quantiles[0.5].value == pytest.approx(true, rel=0.01)
        assert true > 0.5 * STALL_S

    @pytest.mark.slow
    def test_closed_load_hides_wait_behind_a_stall(self, serial_server):
        """Requests are sent one after the other: the stall is one slow request."""
        results = measure(serial_server, STALLED)
        naive = quantile_of((record.e2e_s for record in results.requests), 0.5)
        assert naive < 0.2 * STALL_S

    @pytest.mark.slow
    @retry_disturbed
    def test_latency_counts_from_scheduled_time_when_concurrency_is_limited(self, serial_server):
        """With at most 2 requests in flight, the client waits, and the latency includes that."""
        before = len(serial_server.truths())
        results = measure(serial_server, STALLED, rate=RATE, arrival="constant", concurrency=2)
        true = quantile_of(self.truth(serial_server, before), 0.5)
        assert results.figures["e2e"].quantiles[0.5].value == pytest.approx(true, rel=0.01)
        assert results.figures["lag"].quantiles[0.9].value > 0.4 * STALL_S
        from_sending = quantile_of((r.e2e_s - r.lag_s for r in results.requests), 0.5)
        assert from_sending < 0.3 * STALL_S  # the result of a measurement from sending


@pytest.mark.clock
def test_dispatch_delay_is_small_without_a_concurrency_limit(serial_server):
    results = measure(serial_server, [Script(i) for i in range(10)], rate=50, arrival="constant")
    lags = [record.lag_s for record in results.requests]
    assert min(lags) >= 0
    assert np.median(lags) < 0.005
    scheduled = [record.due_s for record in results.requests]
    assert np.diff(scheduled) == pytest.approx([0.02] * 9, abs=1e-6)


def test_closed_load_keeps_concurrency_constant(tmp_path):
    with scripted_server(tmp_path, "--slots", "4") as server:
        results = measure(server, [Script(0, first_s=0.1)], concurrency=3)
        events = [
            event
            for truth in server.truths()[-10:]
            for event in ((truth.received_ns, 1), (truth.ended_ns, -1))
        ]
    in_flight = np.cumsum([change for _, change in sorted(events)])
    assert max(in_flight) == 3
    assert results.load_text == "concurrency 3"
    assert results.warnings == [] or "slots" not in " ".join(results.warnings)


def test_run_warns_when_concurrency_exceeds_slots(tmp_path):
    with scripted_server(tmp_path, "--slots", "2") as server:
        results = measure(server, [Script(0)], concurrency=3)
    assert any("the 2 slots of the server" in warning for warning in results.warnings)


def test_conversation_turns_include_actual_responses(tmp_path):
    """The second turn is sent with the first response, and counts as a request."""
    conversation = Conversation.of_texts(Script(0, gaps_s=[0.0]).text(), Script(1).text())
    with scripted_server(tmp_path) as server:
        runner = BenchmarkRunner(LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False)
        results = runner.run("scripted", [conversation])
        second = [truth for truth in server.truths() if truth.id == 1]
    assert [record.turn for record in results.requests] == [0, 1] * 5
    assert [record.index for record in results.requests] == list(range(10))
    assert [len(truth.body["messages"]) for truth in second] == [3] * 5
    assert second[0].body["messages"][1] == {"role": "assistant", "content": "word word "}


def test_conversation_ends_after_failed_turn(tmp_path):
    conversation = Conversation.of_texts(
        Script(0).text(), Script(1, status=500).text(), Script(2).text()
    )
    with scripted_server(tmp_path) as server:
        runner = BenchmarkRunner(LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False)
        results = runner.run("scripted", [conversation])
        assert all(truth.id == 0 for truth in server.truths())
    assert len(results.requests) == 7  # instead of 3 + 3 + 3 + 1
    assert any("3 turns were not sent" in warning for warning in results.warnings)

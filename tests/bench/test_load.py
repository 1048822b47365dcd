"""When requests are sent, and from when their latency counts."""

from __future__ import annotations

import numpy as np
import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner, Conversation, Ramp
from llamatelemetry.bench.load import Load, arrival_times
from llamatelemetry.bench.prompts import in_turn
from llamatelemetry.llama import LlamaCppClient
from tests.bench.scripted import Script, scripted_server

# A real clock on a machine that others share: half of the requests held up for 20 ms are not in our
# hands. A measurement that is wrong is wrong each time.
disturbed = pytest.mark.flaky(reruns=2, only_rerun="AssertionError")
STALL_S = 2.0
RATE = 20.0


@pytest.fixture(scope="module")
def one_at_a_time(tmp_path_factory: pytest.TempPathFactory, first_in_the_line: None):
    """A server that works on one request, and lets the others wait where nobody sees it."""
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
    """The server stalls for two seconds while ten requests come in half a second.

    Every caller from the third on waits for most of that time, and whoever waits for an
    answer before he sends the next request sees only one slow one.
    """

    def truth(self, server, before):
        """From when each request was due, by the clock of the server, to its end."""
        truths = {truth.id: truth for truth in server.truths()[before:]}
        began_ns = truths[0].received_ns
        return [(truths[i].ended_ns - began_ns) / 1e9 - i / RATE for i in range(10)]

    @disturbed
    def test_an_open_load_shows_what_every_caller_waited(self, one_at_a_time):
        before = len(one_at_a_time.truths())
        results = measure(one_at_a_time, STALLED, rate=RATE, arrival="constant")
        true = quantile_of(self.truth(one_at_a_time, before), 0.5)
        assert results.figures["e2e"].quantiles[0.5].value == pytest.approx(true, rel=0.01)
        assert true > 0.5 * STALL_S

    @pytest.mark.slow
    def test_a_naive_measurement_of_the_same_server_does_not(self, one_at_a_time):
        """One after the other, and latency from the sending: the same stall is one slow request."""
        results = measure(one_at_a_time, STALLED)
        naive = quantile_of((record.e2e_s for record in results.requests), 0.5)
        assert naive < 0.2 * STALL_S

    @pytest.mark.slow
    @disturbed
    def test_a_request_held_back_here_counts_from_when_it_was_due(self, one_at_a_time):
        """At most two under way: the wait moves into this program, and is counted all the same."""
        before = len(one_at_a_time.truths())
        results = measure(one_at_a_time, STALLED, rate=RATE, arrival="constant", concurrency=2)
        true = quantile_of(self.truth(one_at_a_time, before), 0.5)
        assert results.figures["e2e"].quantiles[0.5].value == pytest.approx(true, rel=0.01)
        assert results.figures["lag"].quantiles[0.9].value > 0.4 * STALL_S
        from_sending = quantile_of((r.e2e_s - r.lag_s for r in results.requests), 0.5)
        assert from_sending < 0.3 * STALL_S  # what a naive measurement would have told


@pytest.mark.clock
def test_the_dispatch_lag_is_small_when_nothing_holds_requests_back(one_at_a_time):
    results = measure(one_at_a_time, [Script(i) for i in range(10)], rate=50, arrival="constant")
    lags = [record.lag_s for record in results.requests]
    assert min(lags) >= 0
    assert np.median(lags) < 0.005
    due = [record.due_s for record in results.requests]
    assert np.diff(due) == pytest.approx([0.02] * 9, abs=1e-6)


def test_a_closed_load_keeps_so_many_under_way(tmp_path):
    with scripted_server(tmp_path, "--slots", "4") as server:
        results = measure(server, [Script(0, first_s=0.1)], concurrency=3)
        events = [
            event
            for truth in server.truths()[-10:]
            for event in ((truth.received_ns, 1), (truth.ended_ns, -1))
        ]
    under_way = np.cumsum([change for _, change in sorted(events)])
    assert max(under_way) == 3
    assert results.load_text == "3 at a time"
    assert results.warnings == [] or "slots" not in " ".join(results.warnings)


def test_more_at_a_time_than_slots_is_said(tmp_path):
    with scripted_server(tmp_path, "--slots", "2") as server:
        results = measure(server, [Script(0)], concurrency=3)
    assert any("the server has 2 slots" in warning for warning in results.warnings)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.5, 10.0, Ramp(1, 9)])
def test_arrivals_fill_their_time_whatever_the_seed(rate, seed):
    due = arrival_times(Load(rate=rate), 100, seed)
    mean_rate = (rate.start + rate.stop) / 2 if isinstance(rate, Ramp) else rate
    assert list(due) == sorted(due)
    assert 0 <= due[0] <= due[-1] <= 100 / mean_rate


def test_poisson_arrivals_have_gaps_of_an_exponential_distribution():
    from scipy import stats

    gaps = np.diff(arrival_times(Load(rate=5.0), 5000, 1))
    assert stats.kstest(gaps, "expon", args=(0, 0.2)).pvalue > 0.01


def test_constant_arrivals_are_evenly_spaced():
    assert arrival_times(Load(rate=4.0, arrival="constant"), 4, 0) == [0, 0.25, 0.5, 0.75]


def test_the_rate_of_a_ramp_grows_evenly():
    due = np.array(arrival_times(Load(rate=Ramp(1, 9), arrival="constant"), 1000, 0))
    first, second = (due < 100).sum(), ((due >= 100) & (due < 200)).sum()
    assert first == pytest.approx(300, abs=2)  # rate 1 to 5 in the first 100 of 200 s
    assert second == pytest.approx(700, abs=2)


def test_a_seed_draws_the_same_arrivals_again():
    load = Load(rate=3.0)
    assert arrival_times(load, 50, 4) == arrival_times(load, 50, 4)
    assert arrival_times(load, 50, 4) != arrival_times(load, 50, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"rate": 0}, "rate must be over 0"),
        ({"rate": float("nan")}, "rate must be over 0"),
        ({"arrival": "gamma"}, "'poisson' or 'constant'"),
    ],
)
def test_a_load_that_is_not_possible_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Load(**options)


def test_a_ramp_needs_rates_over_zero():
    with pytest.raises(ValueError, match="over 0"):
        Ramp(0, 3)


def test_turns_of_a_conversation_hold_what_was_really_answered(tmp_path):
    """Every second turn is asked with the first one's answer before it, and counts as a request."""
    talk = Conversation.of_texts(Script(0, gaps_s=[0.0]).text(), Script(1).text())
    with scripted_server(tmp_path) as server:
        runner = BenchmarkRunner(LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False)
        results = runner.run("scripted", [talk])
        second = [truth for truth in server.truths() if truth.id == 1]
    assert [record.turn for record in results.requests] == [0, 1] * 5
    assert [record.index for record in results.requests] == list(range(10))
    assert [len(truth.body["messages"]) for truth in second] == [3] * 5
    assert second[0].body["messages"][1] == {"role": "assistant", "content": "word word "}


def test_a_conversation_ends_with_a_turn_that_fails(tmp_path):
    talk = Conversation.of_texts(Script(0).text(), Script(1, status=500).text(), Script(2).text())
    with scripted_server(tmp_path) as server:
        runner = BenchmarkRunner(LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False)
        results = runner.run("scripted", [talk])
        assert all(truth.id == 0 for truth in server.truths())
    assert len(results.requests) == 7  # of 3 + 3 + 3 + 1
    assert any("3 turns were not asked" in warning for warning in results.warnings)


@pytest.mark.parametrize(
    ("turns", "requests", "expected"),
    [
        ((1, 1), 3, [(0, 1), (1, 1), (0, 1)]),
        ((3,), 7, [(0, 3), (0, 3), (0, 1)]),
        ((2, 1), 4, [(0, 2), (1, 1), (0, 1)]),
    ],
)
def test_prompts_are_taken_in_turn_until_there_are_requests_enough(turns, requests, expected):
    conversations = [Conversation.of_texts(*"x" * count) for count in turns]
    assert list(in_turn(conversations, requests)) == expected

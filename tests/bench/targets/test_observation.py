"""Every metric compared with the clock of a scripted server, within 1 ms or 1%."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, pairwise

import numpy as np
import openai
import pytest

from llamatelemetry.bench import (
    BenchmarkError,
    BenchmarkProfile,
    BenchmarkResults,
    BenchmarkRunner,
    RequestRecord,
    RunRecord,
)
from llamatelemetry.llama import LlamaCppClient
from tests.support.loopback_server import ScriptedResponse, loopback, sse
from tests.support.selection import slow_except
from tests.support.timed_server import Script, ScriptedServer, Truth, scripted_server

_rng = random.Random(7)
# First tokens take tenths of a second, as with a real model. On a slow machine an HTTP library
# needs 2 to 4 ms for a request: part of the client's latency, but not visible to the server.
SCRIPTS = {
    "fixed": [Script(i, queue_s=0.4, first_s=0.3, gaps_s=[0.01] * 5) for i in range(10)],
    "jittered": [
        Script(
            i,
            queue_s=_rng.uniform(0.4, 0.45),
            first_s=_rng.uniform(0.22, 0.27),
            gaps_s=[_rng.expovariate(120) for _ in range(5)],
        )
        for i in range(10)
    ],
    "stalls": [
        Script(i, queue_s=0.4, first_s=0.3, gaps_s=[0.01, 0.25 if i % 3 == 0 else 0.01, 0.01])
        for i in range(10)
    ],
    "slow start": [
        Script(i, queue_s=0.7 if i < 3 else 0.4, first_s=0.3, gaps_s=[0.015] * 3) for i in range(10)
    ],
    "noise before the first token": [
        Script(i, queue_s=0.4, first_s=0.3, gaps_s=[0.015] * 3, noise=True) for i in range(10)
    ],
}
SPREAD = {"rate": 12, "arrival": "constant"}
# Other processes on the machine can delay a few requests by milliseconds, so a failure is retried.
# A wrong measurement fails every time.
retry_disturbed = pytest.mark.flaky(reruns=3, only_rerun="AssertionError")


@pytest.fixture(scope="module", autouse=True)
def prioritized(realtime_priority):
    """Run the tests of this file with realtime priority, because they compare times."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with scripted_server(tmp_path_factory.mktemp("scripted")) as server:
        yield server


CLIENTS = {
    "llama.cpp client": lambda server: LlamaCppClient(server.url),
    "OpenAI": lambda server: openai.OpenAI(base_url=f"{server.url}/v1", api_key="none"),
    "AsyncOpenAI": lambda server: openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none"),
}


def measure(
    server: ScriptedServer, scripts: Sequence[Script], client: str = "llama.cpp client", **options
) -> tuple[BenchmarkResults, list[Truth]]:
    """Return the results, and the server's log of each of their requests."""
    made = CLIENTS[client](server)
    runner = BenchmarkRunner(made, BenchmarkProfile.QUICK, progress=False, **options)
    before = len(server.truths())
    results = runner.run("scripted", [script.text() for script in scripts])
    # Keeps the last request of each id, so not the warm-up.
    truths = {truth.id: truth for truth in server.truths()[before:]}
    return results, [truths[scripts[record.prompt].id] for record in results.requests]


def assert_close(reported: float, true: float, what: str = "") -> None:
    """Assert equality within 1 ms or 1%, whichever is larger."""
    assert reported == pytest.approx(true, rel=0.01, abs=0.001), what


def true_metrics(all_scripts: Sequence[Script], truths: Sequence[Truth]) -> dict[str, list[float]]:
    scripts = [all_scripts[truth.id] for truth in truths]
    return {
        "ttft": [truth.ttft_s for truth in truths],
        "e2e": [truth.e2e_s for truth in truths],
        "itl": [gap for truth in truths for gap in truth.gaps_s],
        "tpot": [
            (truth.ended_ns - truth.token_ns[0]) / 1e9 / (len(truth.token_ns) - 1)
            for truth in truths
        ],
        "queue": [truth.queue_s for truth in truths],
        "prefill": [script.first_s for script in scripts],
        "decode": [sum(script.gaps_s) for script in scripts],
    }


def slower(script: Script) -> Script:
    """Return a script with longer delays. What HTTP adds to them is less than 1%.

    A request starts every 0.5 s. An asyncio client that builds and sends one sees the headers and
    tokens of its other requests up to 10 ms late, and measures that. So the constant delays put
    all of them 30 ms or more before and after these starts.
    """
    return replace(
        script,
        queue_s=2.75 * script.queue_s,
        first_s=2.2 * script.first_s,
        gaps_s=[4 * gap_s for gap_s in script.gaps_s],
    )


@contextmanager
def skipped_if_client_is_uneven(server: ScriptedServer) -> Iterator[None]:
    """Skip a test that failed if the client without the benchmark has such an error, too.

    Some machines need milliseconds for a chunk after a pause, because the caches are cold.
    """
    try:
        yield
    except AssertionError:
        error_s = error_of_bare_client(server)
        if error_s > 0.0003:
            pytest.skip(f"the client alone measures gaps with an error of {1000 * error_s:.1f} ms")
        raise


def error_of_bare_client(server: ScriptedServer) -> float:
    """Return the 0.9 quantile of the errors of gaps, in seconds, measured without the benchmark."""
    errors_s = []
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        for number in range(6):
            script = Script(number, first_s=0.1, gaps_s=[0.08] * 5)
            message = {"role": "user", "content": script.text()}
            stream = client.chat.completions.create(
                model="scripted", messages=[message], stream=True
            )
            seen_s = [
                time.perf_counter()
                for chunk in stream
                if chunk.choices and chunk.choices[0].delta.content
            ]
            mine_s = [later - earlier for earlier, later in pairwise(seen_s)]
            true_s = server.truths()[-1].gaps_s
            errors_s += [abs(a - b) for a, b in zip(mine_s, true_s, strict=True)]
    return float(np.quantile(errors_s, 0.9))


@pytest.mark.clock
@pytest.mark.slow  # a busy machine does not reach 1 ms
@retry_disturbed
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_metrics_match_server_clock_within_1_percent(server, name, client):
    scripts = [slower(script) for script in SCRIPTS[name]]
    results, truths = measure(server, scripts, client, rate=2, arrival="constant")
    for metric, values in true_metrics(scripts, truths).items():
        figure = results.figures[metric]
        assert figure.count == len(values), metric
        with skipped_if_client_is_uneven(server):
            assert_close(figure.mean.value, float(np.mean(values)), f"mean of {metric}")
            for q, estimate in figure.quantiles.items():
                assert_close(estimate.value, float(np.quantile(values, q)), f"{q} of {metric}")


@pytest.mark.clock
@retry_disturbed
@pytest.mark.parametrize(
    ("name", "client"),
    [
        *slow_except(
            [("fixed", "llama.cpp client")], ((name, "llama.cpp client") for name in SCRIPTS)
        ),
        *slow_except([], [("jittered", "OpenAI"), ("jittered", "AsyncOpenAI")]),
    ],
)
def test_least_disturbed_request_matches_server_clock(server, name, client):
    """On a busy machine a process may have to wait for the CPU, which only increases latencies.

    The least delayed request shows the error of the measurement itself.
    """
    scripts = SCRIPTS[name]
    if client == "AsyncOpenAI":  # needs 4 to 6 ms to build a request and connect
        scripts = [replace(script, first_s=script.first_s + 0.4) for script in scripts]
    results, truths = measure(server, scripts, client, **SPREAD)
    for metric, values in true_metrics(scripts, truths).items():
        if metric in {"itl", "prefill", "decode"}:
            assert_close(results.figures[metric].quantiles[0.5].value, float(np.median(values)))
            continue
        reported = [getattr(record, f"{metric}_s") for record in results.requests]
        errors = [mine - true for mine, true in zip(reported, values, strict=True)]
        # Queue time excludes the time that a client takes to build its request and to connect.
        share = 0.005 if metric == "queue" else 0.01
        within = [max(0.001, share * true) for true in values]
        if metric != "tpot":  # its start and end errors can cancel out
            assert min(errors) > -0.001, metric
        assert any(abs(e) <= w for e, w in zip(errors, within, strict=True)), (metric, errors)


@pytest.mark.parametrize(
    ("openai_client", "http_client", "slow_hook"),
    [
        (openai.OpenAI, openai.DefaultHttpxClient, lambda _: time.sleep(0.3)),
        (openai.AsyncOpenAI, openai.DefaultAsyncHttpxClient, lambda _: asyncio.sleep(0.3)),
    ],
    ids=["OpenAI", "AsyncOpenAI"],
)
def test_queue_time_excludes_client_work_before_sending(
    server, openai_client, http_client, slow_hook
):
    """A client may fetch an access token first: part of the latency, not of the queue time."""
    http = http_client(event_hooks={"request": [slow_hook]})
    client = openai_client(base_url=f"{server.url}/v1", api_key="none", http_client=http)
    runner = BenchmarkRunner(client, BenchmarkProfile.QUICK, concurrency=10, progress=False)
    results = runner.run("scripted", [Script(0, queue_s=0.1).text()])
    for record in results.requests:
        assert 0.1 <= record.queue_s < 0.3
        assert record.ttft_s > 0.4
        assert record.remainder_s > 0.25


def test_metrics_follow_their_definitions():
    """The expected values are exact, because the records are constructed."""
    requests = [
        RequestRecord(
            index=number,
            prompt=0,
            due_s=number * 1.0,
            lag_s=0.01,
            e2e_s=2.0 + number,
            ttft_s=1.0 + number / 10,
            token_times_s=(1.0, 1.5, 1.6),
            output_tokens=3,
            queue_s=0.1,
            queue_source="header",
            prefill_s=0.5,
            decode_s=0.6,
            prefilled_tokens=10,
            decoded_tokens=4,
        )
        for number in range(11)
    ]
    run = RunRecord(started_unix_s=0.0, duration_s=22.0, planned=11)
    results = BenchmarkResults("m", {}, {}, {}, requests, [run], {"e2e": 4.0})
    medians = {name: figure.quantiles[0.5].value for name, figure in results.figures.items()}
    assert medians == pytest.approx(
        {
            "ttft": 1.5,
            "itl": 0.3,
            "tpot": (7.0 - 1.5) / 2,
            "e2e": 7.0,
            "queue": 0.1,
            "prefill": 0.5,
            "decode": 0.6,
            "engine_tpot": 0.2,
            "remainder": 7.0 - 0.01 - 0.1 - 0.5 - 0.6,
            "lag": 0.01,
            "prefill_rate": 20.0,
            "decode_rate": 5.0,
        }
    )
    assert results.figures["e2e"].mean.value == pytest.approx(7.0)
    assert results.figures["e2e"].quantiles[0.9].value == pytest.approx(11.0)
    assert (results.figures["e2e"].minimum, results.figures["e2e"].maximum) == (2.0, 12.0)
    assert results.totals.request_rate == pytest.approx(0.5)
    assert results.totals.output_rate == pytest.approx(1.5)
    assert results.totals.goodput.value == pytest.approx(3 / 11)
    assert results.totals.goodput_rate == pytest.approx(3 / 22)


@pytest.mark.clock
def test_remainder_is_latency_outside_all_phases(server):
    scripts = [Script(i, queue_s=0.02, first_s=0.02, gaps_s=[0.01]) for i in range(10)]
    results, _ = measure(server, scripts)
    for record in results.requests:
        explained = record.lag_s + record.queue_s + record.prefill_s + record.decode_s
        assert record.remainder_s == pytest.approx(record.e2e_s - explained)
    # The queue ends with the headers, so the remainder is only network time and the inaccuracy
    # of the server's sleeps.
    assert min(record.remainder_s for record in results.requests) < 0.01


@pytest.mark.slow
@pytest.mark.clock
def test_throughput_is_responses_divided_by_duration(server):
    scripts = [Script(i, first_s=0.1, gaps_s=[0.05] * 3) for i in range(10)]
    results, truths = measure(server, scripts)
    run, totals = results.runs[0], results.totals
    elapsed_s = (truths[-1].ended_ns - truths[0].received_ns) / 1e9
    assert run.duration_s == pytest.approx(elapsed_s, rel=0.02)
    assert totals.request_rate == pytest.approx(10 / run.duration_s)
    assert totals.output_rate == pytest.approx(40 / run.duration_s)
    assert totals.input_rate == pytest.approx(70 / run.duration_s)


def test_reasoning_counts_for_ttft_but_not_for_ttfo(server):
    scripts = [Script(i, first_s=0.05, gaps_s=[0.05] * 4, reasoning=3) for i in range(10)]
    results, truths = measure(server, scripts)
    for record, truth in zip(results.requests, truths, strict=True):
        # TTFO lies between two tokens, independent of other load on the machine.
        assert record.token_times_s[0] == pytest.approx(record.ttft_s - record.lag_s)
        assert record.token_times_s[3] == pytest.approx(record.ttfo_s - record.lag_s)
        assert record.ttfo_s > (truth.token_ns[3] - truth.received_ns) / 1e9
    assert results.figures["ttfo"].count == 10


def test_results_omit_ttfo_without_reasoning(server):
    results, _ = measure(server, [Script(0)])
    assert "ttfo" not in results.figures


FAULTS = {
    "server_error": (Script(1, status=500), 500),
    "scripted_fault": (Script(2, gaps_s=[0.01], fault="error event"), 500),
    "truncated_stream": (Script(3, gaps_s=[0.01], fault="truncated"), None),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_failure_is_counted_by_type_and_excluded_from_latencies(server, kind):
    faulty, status = FAULTS[kind]
    # The server's own code is not one of the known ones, so the status is recorded.
    kind = "500" if kind == "scripted_fault" else kind
    good = Script(0, first_s=0.01, gaps_s=[0.01])
    results, _ = _run_any(server, [good, faulty])
    failed = [record for record in results.requests if not record.ok]
    assert [(record.error, record.http_status) for record in failed] == [(kind, status)] * 5
    assert results.totals.failures == {kind: 5}
    assert results.totals.requests == 10
    assert results.figures["e2e"].count == 5
    assert results.totals.success.value == 0.5
    assert results.totals.request_rate == pytest.approx(5 / results.runs[0].duration_s)
    assert "5 of 10 requests failed" in " ".join(results.warnings)


def test_connection_reset_is_counted_as_failure(server):
    broken = Script(1, fault="reset")
    results, _ = _run_any(server, [Script(0), broken])
    assert sum(results.totals.failures.values()) == 5
    assert all(record.ok == (record.prompt == 0) for record in results.requests)


def _run_any(server: ScriptedServer, scripts: Sequence[Script]):
    runner = BenchmarkRunner(LlamaCppClient(server.url), BenchmarkProfile.QUICK, progress=False)
    return runner.run("scripted", [script.text() for script in scripts]), None


def test_openai_client_does_not_retry_failed_requests(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5)
    runner = BenchmarkRunner(client, BenchmarkProfile.QUICK, progress=False)
    results = runner.run("scripted", [Script(0).text(), Script(1, status=503, queue_s=0.02).text()])
    failed = [record for record in results.requests if not record.ok]
    assert len(failed) == 5
    # The library would wait for 0.5 s before a second attempt.
    assert max(record.e2e_s for record in failed) < 0.5


def test_request_bypasses_prompt_cache_and_ignores_eos(server):
    _, (truth, *_) = measure(server, [Script(0)], max_tokens=17, seed=3)
    sent = {name: value for name, value in truth.body.items() if name != "messages"}
    assert sent == {
        "model": "scripted",
        "max_tokens": 17,
        "temperature": 0.0,
        "seed": 3,
        "stream": True,
        "cache_prompt": False,
        "ignore_eos": True,
    }


def test_warm_up_sends_every_prompt_when_cache_is_warm(server):
    before = len(server.truths())
    scripts = [Script(i) for i in range(10)]
    _, (truth, *_) = measure(server, scripts, cache="warm")
    assert truth.body["cache_prompt"] is True
    sent = [truth.id for truth in server.truths()[before:]]
    assert set(sent[:10]) == set(range(10))  # the warm-up
    assert len(sent) == 20


@pytest.fixture(scope="module")
def unknown_server(tmp_path_factory: pytest.TempPathFactory):
    """Start a server of unknown kind."""
    folder = tmp_path_factory.mktemp("unknown")
    with scripted_server(folder, "--owner", "unknown") as server:
        yield server


@pytest.mark.parametrize("client", ["OpenAI", "AsyncOpenAI"])
def test_prompts_get_unique_prefixes_when_server_has_no_cache_switch(unknown_server, client):
    _, truths = measure(unknown_server, [Script(i, timings=False) for i in range(10)], client)
    prefixes = {truth.body["messages"][0]["content"][:10] for truth in truths}
    assert len(prefixes) == 10
    assert "cache_prompt" not in truths[0].body
    assert truths[0].body["stream_options"] == {"include_usage": True}


def test_benchmark_of_loopback_server_uses_no_proxy(unknown_server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    results, truths = measure(unknown_server, [Script(0, timings=False)], "AsyncOpenAI")
    assert {record.error for record in results.requests} == {None}
    assert truths


def test_prompts_get_no_prefix_when_cache_is_warm(unknown_server):
    scripts = [Script(i, timings=False) for i in range(10)]
    _, (truth, *_) = measure(unknown_server, scripts, "OpenAI", cache="warm")
    assert truth.body["messages"][0]["content"] == scripts[0].text()


def test_results_omit_engine_metrics_of_unknown_server(unknown_server):
    results, _ = measure(unknown_server, [Script(0, timings=False)], "OpenAI")
    assert set(results.figures) == {"ttft", "e2e", "lag"}
    assert results.requests[0].queue_s is None
    assert results.requests[0].output_tokens == 1
    assert results.runs[0].engine == {}


def test_request_record_derives_tpot_and_end():
    record = RequestRecord(
        index=0, prompt=0, due_s=1.0, lag_s=0.5, e2e_s=2.0, ttft_s=1.0, output_tokens=5
    )
    assert record.tpot_s == pytest.approx(0.25)
    assert record.ended_s == 3.0
    assert record.remainder_s is None


@pytest.mark.parametrize(("tokens", "expected"), [(None, None), (1, None), (2, 1.0)])
def test_tpot_needs_two_output_tokens(tokens, expected):
    record = RequestRecord(
        index=0, prompt=0, due_s=0, lag_s=0, e2e_s=2.0, ttft_s=1.0, output_tokens=tokens
    )
    assert record.tpot_s == expected


def streamed(output_tokens: int, chunks: int, **changes) -> RequestRecord:
    """Return a record of a stream: first token after 1 s, the last one after 2 s."""
    times = tuple(0.999 + i / max(chunks - 1, 1) for i in range(chunks))
    known = {"token_times_s": times, "ttft_s": 1.0, "ttfo_s": 1.0, "e2e_s": 2.0, **changes}
    return RequestRecord(index=0, prompt=0, due_s=0, lag_s=0, output_tokens=output_tokens, **known)


@pytest.mark.parametrize(
    ("output_tokens", "chunks", "share", "expected"),
    [
        (50, 50, 0.02, 1 / 49),
        (50, 49, 0.02, 1 / 49),  # a token without text
        (50, 1, 1.0, None),  # all tokens in one chunk
        (50, 2, 0.9, None),
        (50, 2, None, None),
        (50, 11, 0.8, None),  # a proxy holds the start of the response back
        (50, 17, 0.06, 1 / 49),  # three tokens per chunk, as with speculative decoding
        (50, 17, None, None),  # a file of an earlier version
        (8, 7, 0.5, 1 / 7),  # a long first word
        (2, 2, 0.5, 1.0),
        (2, 1, 1.0, None),
    ],
)
def test_tpot_is_unknown_when_first_chunk_may_hold_several_tokens(
    output_tokens, chunks, share, expected
):
    record = streamed(output_tokens, chunks, first_chunk_share=share)
    assert record.tpot_s == (None if expected is None else pytest.approx(expected))


def test_tpot_leaves_out_reasoning_tokens_that_are_not_streamed():
    hidden = streamed(50, 10, reasoning_tokens=40, first_chunk_share=0.1)
    assert hidden.tpot_s == pytest.approx(1 / 9)
    shown = streamed(50, 50, reasoning_tokens=40, first_chunk_share=0.02, ttfo_s=1.8)
    assert shown.tpot_s == pytest.approx(1 / 49)
    assert streamed(41, 1, reasoning_tokens=40).tpot_s is None


def pieces(*deltas: dict, tokens: int, reason: str | None = "stop") -> list[bytes]:
    last = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}}
    events = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    ended = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return [*sse(*events, ended, last), b"data: [DONE]\n\n"]


def measure_chunks(chunks: list[bytes], warm_up: list[bytes] | None = None, **options):
    """Return the results of a server that sends the same stream to each measured request."""
    streams = count(0)

    def respond(request):
        if not request.path.endswith("/chat/completions"):
            return ScriptedResponse(404, {})
        is_warm_up = next(streams) < BenchmarkProfile.QUICK.warmup
        return ScriptedResponse(chunks=warm_up if warm_up and is_warm_up else chunks)

    with loopback(respond) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        runner = BenchmarkRunner(client, BenchmarkProfile.QUICK, progress=False, **options)
        return runner.run("m", ["Hello"])


WORDS = pieces({"content": "Hello"}, {"content": " you"}, tokens=2)


def test_response_in_one_chunk_has_no_tpot_and_does_not_meet_its_limit():
    one_chunk = pieces({"role": "assistant"}, {"content": "word " * 50}, tokens=50)
    results = measure_chunks(one_chunk, slo={"tpot": 10})
    assert {"ttft", "e2e"} <= set(results.figures)
    assert "tpot" not in results.figures
    assert results.totals.goodput.value == 0
    assert results.totals.success.value == 1
    assert "TPOT is unknown for 10 of 10 requests" in results.summary()


@pytest.mark.parametrize(
    "empty",
    [
        pieces(tokens=0),
        pieces({"role": "assistant", "content": ""}, tokens=0),
        pieces({"content": None}, tokens=128, reason="length"),  # reasoning that is not streamed
    ],
)
def test_response_without_token_is_counted_as_failure_and_in_no_latency(empty):
    results = measure_chunks(empty, warm_up=WORDS, slo={"e2e": 100})
    assert results.totals.failures == {"empty_response": 10}
    assert results.totals.success.value == results.totals.goodput.value == 0
    assert results.totals.request_rate == 0
    assert results.figures == {}
    assert "failures: empty_response 10" in results.summary()


def test_warm_up_raises_when_every_response_is_empty():
    with pytest.raises(BenchmarkError, match="warm-up requests failed: empty_response"):
        measure_chunks(pieces(tokens=0))


def test_response_of_a_tool_call_is_not_empty():
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    results = measure_chunks(pieces({"tool_calls": [call]}, tokens=5))
    assert results.totals.failures == {}

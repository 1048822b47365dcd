"""Each rule, on a recording with known rates and one disturbed call."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.local.records import SpanRecord
from tests.support.explained_calls import call, explained, milliseconds, part, quiet_calls, target

AT = 200_000.0
NORMAL = {"client_before_send": 2, "network_before": 5, "prefill_new": 170, "decode": 100}


def test_rates_are_those_of_the_quiet_calls():
    (rates,) = explained().servers

    assert rates.undisturbed == 10
    assert rates.prefill_ms_per_token == pytest.approx(5)
    assert rates.prefill_base_ms == pytest.approx(20)
    assert rates.decode_ms_per_token == pytest.approx(10)
    assert rates.wait_ms == pytest.approx(5)


def test_normal_call_has_only_work():
    found = target(call(99, AT))

    assert milliseconds(found) == NORMAL
    assert found.top_cause == "normal"
    assert found.sentence == (
        "277 ms: 170 ms prefill of new tokens and 100 ms decode of the output, nothing unusual."
    )


@pytest.mark.parametrize(
    ("options", "cause", "ms"),
    [
        ({"stream": 300}, "network_stream", 300),
        ({"late": 300}, "client_late", 300),
        ({"sent": 302}, "client_before_send", 302),
        (
            {"sent": 502, "llamatelemetry.client.connect": [0.001, 0.5]},
            "connect",
            499,
        ),
        (
            {
                "sent": 902,
                "llamatelemetry.client.attempts": ["1:200:503", "401:200:ConnectError"],
                "llamatelemetry.client.last_attempt": 0.9,
            },
            "retry",
            899,
        ),
        (
            {"wait": 505, "process": {"cpu": [2, 170, 100]}},
            "network_before",
            505,
        ),
        (
            {"wait": 505, "process": {"stopped": [500, 0, 0], "cpu": [2, 170, 100]}},
            "server_stopped",
            500,
        ),
        (
            {"prefill": 570, "process": {"stopped": [0, 400, 0]}},
            "server_stopped",
            400,
        ),
        # The samples missed 200 ms of the stop, in which the process did not use the CPU either.
        (
            {"prefill": 570, "process": {"stopped": [0, 200, 0], "cpu": [1, 160, 100]}},
            "server_stopped",
            400,
        ),
        (
            {"wait": 905, "llamatelemetry.server.process_start": 0.102},
            "model_load",
            805,
        ),
        (
            {"decode": 500, "process": {"run_delay": [0, 0, 400]}},
            "server_cpu_wait",
            400,
        ),
        (
            {"decode": 500, "process": {"run_delay": [0, 0, 400], "throttled": [0, 0, 300]}},
            "throttled",
            300,
        ),
        # Two CPUs were throttled at once. The busiest thread waited for 400 ms.
        (
            {"decode": 500, "process": {"run_delay": [0, 0, 400], "throttled": [0, 0, 700]}},
            "throttled",
            400,
        ),
        ({"decode": 500}, "unknown", 400),
    ],
)
def test_cause_is_found_with_its_milliseconds(options: dict[str, Any], cause: str, ms: int):
    found = target(call(99, AT, **options))

    assert found.top_cause == cause
    assert round(found.causes[0].ms) == pytest.approx(ms, abs=1)


def test_retry_names_status_and_pauses_of_each_attempt():
    attempts = {
        "llamatelemetry.client.attempts": ["1:200:503", "401:100:ConnectError"],
        "llamatelemetry.client.last_attempt": 0.9,
    }

    found = target(call(99, AT, sent=902, **attempts))

    assert part(found, "retry").evidence == (
        "2 failed attempts (503 after 200 ms, ConnectError after 100 ms) and 599 ms of pauses"
    )


def test_headers_that_were_read_late_do_not_make_the_server_slow():
    # The client was blocked for 100 ms while the headers lay in the socket.
    late_headers = {"llamatelemetry.client.headers": 0.107}

    found = target(call(99, AT, **late_headers))

    assert milliseconds(found) == NORMAL


def test_send_that_a_blocked_client_noted_late_does_not_hide_the_engine():
    # The request left after 2 ms, but the client noted that 150 ms later.
    late_marks = {"llamatelemetry.client.sent": 0.152, "llamatelemetry.client.headers": 0.153}

    found = target(call(99, AT, **late_marks))

    assert milliseconds(found)["prefill_new"] == 170
    assert milliseconds(found)["decode"] == 100
    assert found.top_cause == "normal"


def test_queue_names_the_calls_that_held_all_slots():
    ahead = [call(number, AT, output=60) for number in (97, 98)]
    ends = 2 + 5 + 170 + 590

    found = target(*ahead, call(99, AT + 300, wait=ends - 300 - 2))

    assert found.top_cause == "queue"
    assert part(found, "queue").ms == pytest.approx(ends - 302, abs=1)
    assert part(found, "queue").evidence == (
        "all 2 slots ever seen in use were taken, by calls 000061, 000062"
    )


def test_free_slot_behind_a_long_prompt_is_queue_batch():
    two_at_once = [call(number, AT - 20_000, output=60) for number in (95, 96)]
    ahead = call(98, AT, processed=200)

    found = target(*two_at_once, ahead, call(99, AT + 100, wait=800))

    assert found.top_cause == "queue_batch"
    assert "of call 000062 was processed" in part(found, "queue_batch").evidence


def test_prompt_of_another_call_slows_the_decode():
    other = call(98, AT + 250, processed=100, output=2)

    found = target(other, call(99, AT, output=31, decode=300 + 520))

    assert found.top_cause == "others_prompts"
    assert part(found, "others_prompts").ms == pytest.approx(500, abs=30)
    assert (
        "tokens of call 000062 were processed meanwhile" in part(found, "others_prompts").evidence
    )


@pytest.mark.parametrize("process", [True, False])
def test_shared_decode_is_a_cause_only_with_the_server_process(process: bool):
    hidden: dict[str, Any] = {}
    if not process:
        hidden = {"llamatelemetry.server.cpu": None, "llamatelemetry.server.run_delay": None}
    others = call(98, AT - 100, output=100, **hidden)

    found = target(others, call(99, AT + 200, output=31, decode=600, **hidden))

    assert part(found, "batch").ms > 200
    assert found.top_cause == ("batch" if process else "unknown")


def test_late_end_without_socket_age_is_unexplained_and_not_the_network():
    hidden = {"llamatelemetry.client.read_delay": None}

    found = target(call(99, AT, stream=500, **hidden))

    assert found.top_cause == "unknown"
    assert "network or the client" in part(found, "unexplained").evidence


def test_wait_without_a_known_call_ahead_is_unknown_when_the_server_is_remote():
    hidden = {"llamatelemetry.server.cpu": None, "llamatelemetry.server.run_delay": None}

    found = target(call(99, AT, wait=505, **hidden))

    assert found.top_cause == "unknown"
    assert any("look alike" in text for text in found.unknown)


def test_two_causes_are_named_in_the_order_of_milliseconds():
    found = target(call(99, AT, stream=300, late=500))

    assert [each.name for each in found.causes] == ["client_late", "network_stream"]
    assert found.sentence.startswith("1,077 ms, of which 500 ms client read late (")


def test_few_undisturbed_calls_give_phases_and_no_rates():
    explanation = explained(call(99, AT, prefill=900), quiet=quiet_calls(3))
    found = explanation.calls[-1]

    assert explanation.servers[0].prefill_ms_per_token is None
    assert milliseconds(found)["prefill_new"] == 900
    assert "6 calls that ran alone are needed, and there were 4" in found.unknown[0]


def relayed(number: int, at: float, **options: Any) -> SpanRecord:
    """Return a call through a proxy: the process that listens only passes on the tokens."""
    return call(number, at, process={"cpu": [3.0, 1.0, 2.0]}, **options)


def test_process_that_does_not_do_the_work_is_a_proxy():
    quiet = [relayed(number, 10_000 * number, processed=10 + 10 * number) for number in range(10)]

    explanation = explained(relayed(99, AT, wait=505), quiet=quiet)

    assert explanation.calls[-1].top_cause == "unknown"
    assert explanation.notes[-1] == (
        "The process that listens at 127.0.0.1:8080 used almost no CPU time while the engine "
        "worked, so it is a proxy. Its times are not used. To see the server process, use its own "
        "port."
    )


def test_slots_are_not_the_requests_that_overlap_for_a_moment():
    pairs = [call(number + 20, 10_000 * number + 3) for number in range(10)]
    # Its headers were read late, so its prefill seems to begin before the other calls ended.
    moment = call(98, 90_000 + 255, processed=20)

    explanation = explained(*pairs, moment)

    assert explanation.servers[0].slots == 2

"""`llamatelemetry why`: options, output and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llamatelemetry.cli._app import app
from llamatelemetry.local.store import Store
from tests.support.explained_calls import START_NS, call, quiet_calls

SLOW = call(0xABCDEF, 200_000, stream=900)


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "run.db"
    with Store(path) as store:
        store.write([*quiet_calls(), SLOW])
    return str(path)


def why(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["why", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    return result.output


def test_why_prints_rates_totals_and_slow_calls(recording: str):
    output = why(recording)

    assert "5.00 ms per prompt token + 20 ms, 10.00 ms per output token" in output
    assert "11 calls explained" in output
    assert "abcdef  1,177 ms  tokens: 130 in, 100 cached, 11 out  -> network_stream" in output
    assert "900 ms  76%  network during the response: the engine's times end 900 ms" in output


def test_json_has_calls_servers_and_totals(recording: str):
    found = json.loads(why(recording, "--json"))

    slow = found["calls"][-1]
    assert (slow["top_cause"], slow["span_id"]) == ("network_stream", SLOW.span_id)
    assert sum(part["ms"] for part in slow["parts"]) == pytest.approx(slow["duration_ms"], abs=0.01)
    assert slow["parts"][-1]["evidence"].startswith("the engine's times end 900 ms")
    assert found["servers"][0]["undisturbed"] == 11
    assert found["totals"]["network_stream"] == pytest.approx(900)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        (["--slow", "2x"], 1),
        (["--slow", "0.6"], 2),
        (["--call", "abcd"], 1),
        (["--call", f"{0xABCDEF:032x}"], 1),
        (["--since", "2027-01-15T08:00:55Z"], 5),
        (["--since", "36500d"], 11),
        (["--since", "999999999999d"], 11),
        (["--slow", "5x"], 0),
    ],
)
def test_options_select_calls(recording: str, options: list[str], calls: int):
    # The recording starts at 2027-01-15 08:00 UTC.
    assert START_NS == 1_800_000_000_000_000_000
    assert len(json.loads(why(recording, "--json", *options))["calls"]) == calls


def test_call_prints_all_parts_of_one_call(recording: str):
    output = why(recording, "--call", "abcdef")

    assert output.splitlines()[0].startswith("abcdef  1,177 ms")
    assert "calls explained" not in output


@pytest.mark.parametrize(
    ("limit", "status"),
    [
        ("network_stream>5%", 1),
        ("network_stream>50%", 0),
        ("network_stream > 0.8s", 1),
        ("network_stream>950ms", 0),
        ("prefill_again:evicted>0%", 0),
        ("application>0%", 0),
    ],
)
def test_fail_on_exits_with_1_above_the_limit(recording: str, limit: str, status: int):
    output = why(recording, "--fail-on", limit, status=status)

    assert (f"error: {limit}: measured" in output) == (status == 1)


@pytest.mark.parametrize("limit", ["prefill_again>5%", "application>9s"])
def test_fail_on_exits_with_1_if_no_call_was_recorded(tmp_path: Path, limit: str):
    path = str(tmp_path / "empty.db")
    with Store(path):
        pass
    output = why(path, "--fail-on", limit, status=1)

    assert "error: --fail-on: no call was recorded, so no limit could be checked" in output
    why(path)


def test_fail_on_exits_with_1_without_calls_since_then_but_not_without_slow_calls(recording: str):
    later = "2100-01-01T00:00:00Z"
    assert "no call was recorded" in why(
        recording, "--since", later, "--fail-on", "decode>99%", status=1
    )
    why(recording, "--slow", "99x", "--fail-on", "decode>0%")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--fail-on", "prefill_again", "must be PART>NUMBER with %, ms or s"),
        ("--fail-on", "prefil>5%", "must name one of"),
        ("--fail-on", "decode:evicted>5%", "must name a cause among"),
        ("--slow", "fast", "must be a multiple such as 2x, or seconds such as 1.5"),
        ("--slow", "-1", "must be a multiple"),
        ("--since", "9" * 400 + "d", "must be a period such as 10m"),
        ("--since", "yesterday", "must be a period such as 10m, or an ISO time"),
    ],
)
def test_invalid_option_says_what_is_accepted(option: str, value: str, message: str):
    output = why("missing.db", option, value, status=2)

    assert message in " ".join(output.replace("│", " ").split())


def test_unknown_call_and_missing_file_are_errors(recording: str, tmp_path: Path):
    assert "no call has a span or trace id that starts with 123" in why(
        recording, "--call", "123", status=2
    )
    assert "no such file" in why(str(tmp_path / "none.db"), status=1)


def test_escape_sequences_of_a_server_are_not_printed(tmp_path: Path):
    attempts = {"llamatelemetry.client.attempts": ["1:900:\x1b]0;title\x07\n-> normal"]}
    with Store(tmp_path / "run.db") as store:
        store.write([call(1, 0, sent=1000, **attempts)])

    output = why(str(tmp_path / "run.db"))

    assert "\x1b" not in output
    assert "\n-> normal" not in output

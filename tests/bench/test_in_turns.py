"""Two benchmarks on a machine that gets slower all the time: one after the other, and in turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns

import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkResults, BenchmarkRunner, Comparison
from llamatelemetry.llama import LlamaCppClient
from tests.bench.scripted import Script, ScriptedServer, scripted_server

SCRIPT = Script(0, first_s=0.015, gaps_s=[0.005, 0.005])
DRIFT = 0.25  # of the delays at the beginning, in each second

Start = Callable[..., list[ScriptedServer]]


@pytest.fixture
def start(tmp_path: Path, first_in_the_line: None):
    """Starts servers of the given paces on one machine, which gets slower from then on."""
    with ExitStack() as running:

        def start(*paces: float, drift: float = DRIFT) -> list[ScriptedServer]:
            since = str(perf_counter_ns())
            options = ["--drift", str(drift), "--since", since]
            folders = [tmp_path / str(number) for number in range(len(paces))]
            for folder in folders:
                folder.mkdir()
            return [
                running.enter_context(scripted_server(folder, "--pace", str(pace), *options))
                for folder, pace in zip(folders, paces, strict=True)
            ]

        yield start


def runner(server: ScriptedServer, **options) -> BenchmarkRunner:
    client = LlamaCppClient(server.url)
    return BenchmarkRunner(client, BenchmarkProfile.QUICK, progress=False, **options)


def one_after_the_other(old: ScriptedServer, new: ScriptedServer) -> Comparison:
    baseline, candidate = (
        runner(server).run("scripted", SCRIPT.text(), repeats=4) for server in (old, new)
    )
    return candidate.compare(baseline)


def in_turns(old: ScriptedServer, new: ScriptedServer) -> Comparison:
    candidate, baseline = runner(new).run_beside(runner(old), "scripted", SCRIPT.text())
    return candidate.compare(baseline)


@pytest.mark.slow
@pytest.mark.clock
def test_the_second_of_two_equal_servers_is_slower_only_one_after_the_other(start: Start):
    wrong = one_after_the_other(*start(1.0, 1.0))
    assert wrong["e2e"].verdict == "slower"


@pytest.mark.slow
@pytest.mark.clock
def test_in_turns_two_equal_servers_are_not_told_apart(start: Start):
    right = in_turns(*start(1.0, 1.0))
    assert right["e2e"].verdict not in {"slower", "faster"}
    assert (right.exit_code, right["e2e"].paired) == (0, True)


@pytest.mark.slow
@pytest.mark.clock
def test_in_turns_a_faster_server_is_seen_to_be(start: Start):
    comparison = in_turns(*start(1.0, 0.75))
    assert comparison["e2e"].verdict == "faster"
    assert "each run was compared with the one beside it" in comparison.summary()


def test_the_two_are_kept_apart_and_know_each_other_again(start: Start, tmp_path: Path):
    servers = start(1.0, 1.0, drift=0.0)
    before = [len(server.truths()) for server in servers]
    options = {"max_tokens": 5}, {"max_tokens": 7, "concurrency": 2}
    runners = [runner(server, **each) for server, each in zip(servers, options, strict=True)]
    results = runners[0].run_beside(runners[1], "a", SCRIPT.text(), repeats=2, other_model_name="b")
    for number, (found, server) in enumerate(zip(results, servers, strict=True)):
        sent = [truth.body for truth in server.truths()[before[number] :]]
        assert {body["max_tokens"] for body in sent} == {options[number]["max_tokens"]}
        assert {body["model"] for body in sent} == {found.model} == {"ab"[number]}
        assert [record.run for record in found.requests] == [0] * 10 + [1] * 10
    starts = [[run.started_unix_s for run in each.runs] for each in results]
    assert starts[0][0] < starts[1][0] < starts[1][1] < starts[0][1]  # A B, B A
    again = [BenchmarkResults.load(found.save(tmp_path / "kept.json")) for found in results]
    differing = ["model", "max_tokens", "load.concurrency"]
    assert again[0].compare(again[1], allow=differing)["e2e"].paired
    alone = runners[0].run("a", SCRIPT.text(), repeats=2)
    assert not alone.compare(again[1], allow=differing)["e2e"].paired


def test_of_one_pair_nothing_could_be_told(start: Start):
    (server,) = start(1.0)
    with pytest.raises(ValueError, match="repeats must be at least 2, not 1"):
        runner(server).run_beside(runner(server), "scripted", SCRIPT.text(), repeats=1)

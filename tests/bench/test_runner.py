"""Consecutive and interleaved benchmarks on a machine that slows down continuously."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns

import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkResults, BenchmarkRunner, Comparison
from llamatelemetry.llama import LlamaCppClient
from tests.support.timed_server import Script, ScriptedServer, scripted_server

SCRIPT = Script(0, first_s=0.015, gaps_s=[0.005, 0.005])
DRIFT = 0.25  # increase of all delays per second, as a fraction of the initial delays

Start = Callable[..., list[ScriptedServer]]


@pytest.fixture
def start(tmp_path: Path, realtime_priority: None):
    """Return a function that starts servers with these paces and a common drift."""
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


def consecutive(old: ScriptedServer, new: ScriptedServer) -> Comparison:
    baseline, candidate = (
        runner(server).run("scripted", SCRIPT.text(), repeats=4) for server in (old, new)
    )
    return candidate.compare(baseline)


def interleaved(old: ScriptedServer, new: ScriptedServer) -> Comparison:
    candidate, baseline = runner(new).run_interleaved(runner(old), "scripted", SCRIPT.text())
    return candidate.compare(baseline)


@pytest.mark.slow
@pytest.mark.clock
def test_consecutive_benchmarks_report_equal_server_as_slower_when_machine_drifts(start: Start):
    wrong = consecutive(*start(1.0, 1.0))
    assert wrong["e2e"].verdict == "slower"


@pytest.mark.slow
@pytest.mark.clock
def test_interleaved_benchmarks_report_no_difference_of_equal_servers(start: Start):
    right = interleaved(*start(1.0, 1.0))
    assert right["e2e"].verdict not in {"slower", "faster"}
    assert (right.exit_code, right["e2e"].paired) == (0, True)


@pytest.mark.slow
@pytest.mark.clock
def test_interleaved_benchmarks_report_faster_server(start: Start):
    comparison = interleaved(*start(1.0, 0.75))
    assert comparison["e2e"].verdict == "faster"
    assert "each run was compared with the run next to it" in comparison.summary()


def test_run_interleaved_separates_results_and_pairs_them_after_loading(
    start: Start, tmp_path: Path
):
    servers = start(1.0, 1.0, drift=0.0)
    before = [len(server.truths()) for server in servers]
    options = {"max_tokens": 5}, {"max_tokens": 7, "concurrency": 2}
    runners = [runner(server, **each) for server, each in zip(servers, options, strict=True)]
    results = runners[0].run_interleaved(
        runners[1], "a", SCRIPT.text(), repeats=2, other_model_name="b"
    )
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


def test_run_interleaved_rejects_single_repeat(start: Start):
    (server,) = start(1.0)
    with pytest.raises(ValueError, match="repeats must be at least 2, got 1"):
        runner(server).run_interleaved(runner(server), "scripted", SCRIPT.text(), repeats=1)


def test_run_beside_is_alias_of_run_interleaved():
    assert BenchmarkRunner.run_beside is BenchmarkRunner.run_interleaved


async def test_run_works_in_thread_with_running_event_loop(tmp_path: Path):
    """A cell of a notebook is such a place."""
    with scripted_server(tmp_path) as server:
        results = runner(server).run("scripted", SCRIPT.text())
    assert [request.ok for request in results.requests] == [True] * 10

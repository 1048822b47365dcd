"""A short form of `make soak`: every call is recorded once. The long one also watches memory."""

from __future__ import annotations

import pytest

from scripts.soak import GROWTH_KB, Calls, Result, Sink, run


@pytest.mark.parametrize("in_process", [False, True])
def test_soak_loses_no_call(in_process):
    result = run(seconds=60, calls=60, interval_s=0.5, in_process=in_process)
    assert result.losses() == []
    assert result.calls == 60
    assert result.samples[-1]["streams"] == 7
    assert result.samples[-1]["flushed"] is True
    # Three phases of each response with timings.
    assert set(result.sink.others) >= {"prefill", "decode"}


def sample(rss_kb: int = 100_000, threads: int = 8, files: int = 20) -> dict[str, int]:
    return {"rss_kb": rss_kb, "threads": threads, "files": files, "plain": 5, "streams": 1}


LAST = {**sample(), "scraped": 6, "flushed": True}


@pytest.mark.parametrize(
    ("later", "grown"),
    [
        ([sample()] * 8, []),
        ([sample(100_000 + GROWTH_KB)] * 8, []),
        ([sample()] * 7 + [sample(100_001 + GROWTH_KB)], ["rss_kb grew from 100,000 to 105,121"]),
        ([sample(threads=9)] * 7 + [sample()], []),
        ([sample(threads=9)] * 8, ["threads grew from 8 to 9"]),
        ([sample(files=21)] * 8, ["files grew from 20 to 21"]),
    ],
)
def test_soak_reports_growth_after_the_warm_up(later, grown):
    assert Result([sample()] * 4 + later + [LAST], Sink()).growth(4) == grown


def test_warm_up_lasts_until_caches_are_full():
    samples = [{**sample(), "plain": 1_000 * number} for number in range(20)]
    assert Result([*samples, LAST], Sink()).warm_up(0.25) == 11
    assert Result([*samples, LAST], Sink()).warm_up(0.75) == 15


def received(*numbers: int) -> Calls:
    calls = Calls()
    for number in numbers:
        calls.add(number)
    return calls


def test_soak_reports_a_lost_and_a_repeated_call():
    sink = Sink(spans=received(0, 5, 2, 3, 1), events=received(0, 1, 2, 3, 4, 5, 2), measured=6)
    assert Result([sample(), LAST], sink).losses() == [
        "calls in the spans received: 5, calls: 6",
        "events received again: 1",
    ]

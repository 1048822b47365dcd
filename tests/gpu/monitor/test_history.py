"""Means and peaks over time ranges, compared with plain iteration over all samples."""

from __future__ import annotations

import random

import pytest

from llamatelemetry.gpu.monitor.history import GpuUsage, History
from llamatelemetry.gpu.reader import GpuState

STALE_S = 5.0


def state(power_w=None, utilization=None, memory=None, temperature=None) -> GpuState:
    return GpuState(
        power_w=power_w,
        utilization=utilization,
        memory_used_bytes=memory,
        temperature_c=temperature,
    )


def walked(samples, start_s, end_s) -> GpuUsage:
    """Return the expected result of `History.over` for one device."""
    start_s = max(start_s, samples[0][0])
    end_s = max(start_s, min(end_s, samples[-1][0] + STALE_S))
    areas = {"utilization": [0.0, 0.0], "power_w": [0.0, 0.0]}
    stands = []
    for i, (at_s, each) in enumerate(samples):
        since_s = samples[i - 1][0] if i else at_s
        until_s = at_s if i + 1 < len(samples) else float("inf")
        part_s = min(until_s, end_s) - max(since_s, start_s)
        if part_s > 0 or since_s <= start_s == end_s <= until_s or (at_s == start_s and i == 0):
            stands.append(each)
        for name, sums in areas.items():
            value = getattr(each, name)
            if value is not None and part_s > 0:
                sums[0] += value * part_s
                sums[1] += part_s
    return {name: area / known if known else None for name, (area, known) in areas.items()}, stands


@pytest.mark.parametrize("seed", range(6))
def test_over_agrees_with_iteration_over_all_samples(seed):
    chance = random.Random(seed)
    history, samples, at_s = History(STALE_S), [], 0.0
    for _ in range(300):
        at_s += chance.choice((0.1, 0.1, 1.0))
        each = GpuState(
            utilization=chance.choice((None, 0.0, 0.5, 1.0)),
            memory_used_bytes=chance.choice((None, *range(1000))),
            power_w=chance.choice((None, 70.0, 300.5, 650.0)),
            temperature_c=chance.choice((None, 30.0, 80.0)),
        )
        samples.append((at_s, each))
        history.append(at_s, [each])
    for _ in range(300):
        start_s = chance.uniform(samples[0][0], at_s)
        end_s = start_s + chance.choice((0.01, 0.3, 3.0, 40.0, 200.0))
        (usage,) = history.over(start_s, end_s)
        means, stands = walked(samples, start_s, end_s)
        for name, mean in means.items():
            if mean is not None:
                assert getattr(usage, name) == pytest.approx(mean)
        for name, peak in (
            ("memory_used_bytes", usage.memory_used_bytes),
            ("temperature_c", usage.temperature_c),
            ("utilization", usage.utilization_peak),
        ):
            known = [v for each in stands if (v := getattr(each, name)) is not None]
            assert peak == max(known, default=None)


def test_over_returns_none_before_first_sample_and_after_stale_last_sample():
    history = History(STALE_S)
    assert history.over(0, 1) is None
    history.append(10, [state(100)])
    assert history.over(8, 9) is None
    assert history.over(8, 10.5) == [GpuUsage(power_w=100)]
    assert history.over(14, 100) == [GpuUsage(power_w=100)]
    assert history.over(15.1, 16) is None


def test_over_ignores_long_pause_between_samples():
    history = History(STALE_S)
    for at_s, power_w in ((0, 100), (1, 100), (3600, 700), (3601, 300)):
        history.append(at_s, [state(power_w)])
    (usage,) = history.over(0, 3601)
    assert usage.power_w == pytest.approx((100 + 300) / 2)


def test_over_returns_state_at_the_time_for_empty_range():
    history = History(STALE_S)
    for at_s in range(5):
        history.append(at_s, [state(100.0 * at_s, at_s / 10)])
    assert history.over(2.5, 2.5) == [GpuUsage(0.3, 0.3, None, 300.0, None)]
    # The end may be before the start after a clock step.
    assert history.over(2.5, 1.0) == [GpuUsage(0.3, 0.3, None, 300.0, None)]


def test_history_is_bounded_and_keeps_newest_samples():
    history = History(STALE_S, capacity=640)
    for at_s in range(5000):
        history.append(at_s, [state(float(at_s), memory=at_s)])
        assert len(history) <= 640 + 512
    (usage,) = history.over(4400, 4999)
    assert usage.power_w == pytest.approx(4700, abs=1)
    assert usage.memory_used_bytes == 4999
    assert history.over(0, 10) is None


def test_over_returns_usage_of_each_device():
    history = History(STALE_S)
    for at_s in range(100):
        history.append(at_s, [state(100, memory=at_s), state(200, 0.5), state()])
    assert history.over(0, 99) == [
        GpuUsage(power_w=100, memory_used_bytes=99),
        GpuUsage(0.5, 0.5, None, 200, None),
        GpuUsage(),
    ]

"""How the energy of a GPU is divided among calls, with synthetic readings."""

from __future__ import annotations

import random

import pytest

from llamatelemetry.gpu.energy import EnergyLedger, _EnergyShare, _parts
from tests.gpu.meter import HERE, Key, Meter


def test_finish_returns_whole_energy_of_a_single_call():
    meter = Meter(lambda _: 300.0)
    meter.run(1.05)
    call = meter.begin()
    meter.run(2.5)
    energy = meter.end(call)
    assert energy.joules == pytest.approx(750, rel=0.001)
    assert energy.attribution == "exclusive"
    assert energy.above_idle_joules is None  # the GPU was never observed idle


def test_overlapping_calls_share_each_moment_equally():
    meter = Meter(lambda _: 200.0)
    first = meter.begin()
    meter.run(2)
    second = meter.begin()
    meter.run(2)
    first_energy = meter.end(first)
    meter.run(1)
    second_energy = meter.end(second)
    assert first_energy.joules == pytest.approx(400 + 200, rel=0.001)
    assert second_energy.joules == pytest.approx(200 + 200, rel=0.001)
    assert (first_energy.attribution, second_energy.attribution) == ("shared", "shared")


def test_above_idle_joules_excludes_idle_power():
    meter = Meter(lambda time_s: 60.0 if time_s < 2 else 260.0)
    meter.run(2, idle=HERE)
    call = meter.begin()
    meter.run(3)
    energy = meter.end(call)
    assert energy.joules == pytest.approx(780, rel=0.001)
    assert energy.above_idle_joules == pytest.approx(600, rel=0.001)


def test_gpu_under_load_of_other_programs_does_not_count_as_idle():
    meter = Meter(lambda _: 260.0)
    meter.run(2, idle=())
    call = meter.begin()
    meter.run(3)
    assert meter.end(call).above_idle_joules is None


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.9])
def test_finish_returns_none_for_fewer_than_ten_counter_updates(seconds):
    meter = Meter(lambda _: 300.0)
    meter.run(1)
    call = meter.begin()
    meter.run(seconds)
    assert meter.end(call) is None


def test_constant_counter_has_no_updates():
    meter = Meter(lambda _: 0.0)
    call = meter.begin()
    meter.run(5)
    assert meter.end(call) is None


def test_finish_returns_none_for_engine_on_no_gpu():
    meter = Meter(lambda _: 300.0)
    elsewhere, here = meter.begin("cloud"), meter.begin()
    assert meter.ledger.is_busy()
    meter.run(2)
    assert meter.end(elsewhere) is None
    assert meter.end(here).attribution == "exclusive"
    assert not meter.ledger.is_busy()


def test_finish_sums_energy_of_both_gpus_of_an_engine():
    meter = Meter(lambda _: 150.0, devices={"GPU-0", "GPU-1"})
    call = meter.begin()
    meter.run(2)
    assert meter.end(call).joules == pytest.approx(600, rel=0.001)


def test_finish_returns_none_when_one_gpu_has_no_counter():
    meter = Meter(lambda _: 150.0)
    meter.ledger.place({"engine": frozenset({"GPU-0", "GPU-1"})})
    call = meter.begin()
    meter.run(2)
    assert meter.end(call) is None


def test_finish_returns_none_when_counter_was_reset_during_call():
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    meter.energy_j = 0.0  # the driver was reloaded
    meter.run(2)
    assert meter.end(call) is None
    after = meter.begin()
    meter.run(2)
    assert meter.end(after).joules == pytest.approx(200, rel=0.001)


def test_finish_returns_none_when_gpu_was_lost_during_call():
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    meter.ledger.settle({})
    meter.settle()
    meter.run(2)
    assert meter.end(call) is None


def test_reading_after_one_that_failed_covers_both_intervals():
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    meter.run(0.05)
    meter.ledger.settle({"GPU-0": (meter.now_s, None)})
    meter.run(1.95)
    assert meter.end(call).joules == pytest.approx(400, rel=0.001)


def test_finish_returns_none_when_counter_has_not_been_readable_for_long():
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    meter.now_s += 60
    meter.ledger.settle({"GPU-0": (meter.now_s, None)})
    assert meter.end(call) is None


def test_dropped_span_does_not_stay_in_flight():
    meter = Meter(lambda _: 100.0)
    meter.begin()
    assert not meter.ledger.is_busy()


def test_finish_does_not_deadlock_when_same_thread_holds_the_lock():
    """The garbage collector may close a generator, and end its span, at any point."""
    meter = Meter(lambda _: 100.0)
    key = meter.begin()
    with meter.ledger._lock:
        meter.end(key)
    assert not meter.ledger.is_busy()


def test_finish_returns_energy_only_once():
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    assert meter.end(call) is not None
    assert meter.end(call) is None


def test_estimation_error_goes_to_calls_still_in_flight():
    """The power drops, and a call ends before the next reading: its estimate is too high."""
    meter = Meter(lambda time_s: 600.0 if time_s < 2 else 100.0)
    first, second = meter.begin(), meter.begin()
    meter.run(2.05)
    first_energy = meter.end(first)
    meter.run(2)
    second_energy = meter.end(second)
    assert first_energy.joules == pytest.approx(600 + 600 * 0.05 / 2)
    assert first_energy.joules + second_energy.joules == pytest.approx(1200 + 100 * 2.05)


@pytest.mark.parametrize("seed", range(8))
def test_shares_add_up_to_the_counter(seed):
    """Random calls on a random power curve."""
    chance = random.Random(seed)
    levels = [chance.choice((70.0, 180.0, 420.0, 650.0)) for _ in range(400)]
    meter = Meter(lambda time_s: levels[int(time_s / 0.25)])
    meter.run(1)
    before_j = meter.energy_j
    # One call is in flight all the time, so that all energy belongs to a call.
    lasting, open_calls, shares = meter.begin(), [], []
    for _ in range(40):
        meter.run(chance.uniform(0.1, 0.6))
        long_enough = [each for each in open_calls if meter.now_s - each[1] > 1.2]
        if long_enough and chance.random() < 0.6:
            ending = chance.choice(long_enough)
            open_calls.remove(ending)
            shares.append(meter.end(ending[0]))
        else:
            open_calls.append((meter.begin(), meter.now_s))
    meter.run(1.5)
    shares += [meter.end(each) for each, _ in open_calls]
    shares.append(meter.end(lasting))
    assert len(shares) > 10
    assert sum(share.joules for share in shares) == pytest.approx(
        meter.energy_j - before_j, rel=0.01
    )


def test_finish_returns_energy_from_the_tenth_counter_update_on():
    meter = Meter(lambda _: 300.0)
    ten, nine = meter.begin(), Key()
    meter.run(0.05)
    meter.ledger.start(nine, "engine", meter.now_s)
    meter.run(0.9)
    assert meter.end(nine) is None
    meter.run(0.05)
    # The ten updates are followed by nothing that must be estimated.
    assert meter.end(ten).joules == pytest.approx(0.1 * 300 + 0.9 * 150)


@pytest.mark.parametrize(
    ("gpu", "joules", "attribution"), [("GPU-0", 200, "shared"), ("GPU-1", 400, "exclusive")]
)
def test_call_of_another_process_takes_half_of_the_energy_of_its_own_gpu(gpu, joules, attribution):
    meter = Meter(lambda _: 200.0)
    call = meter.begin()
    meter.run(2, others={gpu: 1})
    energy = meter.end(call)
    assert (energy.joules, energy.attribution) == (pytest.approx(joules), attribution)


def test_tail_of_a_call_is_shared_with_the_calls_of_other_processes():
    meter = Meter(lambda _: 200.0)
    call = meter.begin()
    meter.run(1.05, others={"GPU-0": 3})
    assert meter.end(call).joules == pytest.approx(1.05 * 200 / 4)


def test_idle_power_is_the_mean_of_the_last_ten_idle_intervals():
    """The GPU was idle for 2 s, and drew 20 W in the first and 60 W in the second one."""
    meter = Meter(lambda time_s: 20.0 if time_s < 1 else 60.0 if time_s < 2 else 260.0)
    meter.run(1.5, idle=HERE)
    early = meter.ledger._counters["GPU-0"].idle_w
    assert sum(early) / len(early) == pytest.approx(40)
    meter.run(0.5, idle=HERE)
    call = meter.begin()
    meter.run(2, idle=HERE)  # not idle, because a call is in flight
    assert meter.end(call).above_idle_joules == pytest.approx(400)


def test_power_beside_calls_of_other_processes_is_not_idle_power():
    meter = Meter(lambda _: 100.0)
    meter.run(1, idle=HERE, others={"GPU-0": 1})
    call = meter.begin()
    meter.run(2)
    assert meter.end(call).above_idle_joules is None


def test_energy_above_idle_is_unknown_unless_every_gpu_was_idle():
    both = {"GPU-0", "GPU-1"}
    meter = Meter(lambda _: 100.0, devices=both)
    meter.run(1, idle=HERE)
    call = meter.begin()
    meter.run(2)
    energy = meter.end(call)
    assert (energy.joules, energy.above_idle_joules) == (pytest.approx(400), None)
    meter.run(1, idle=both)
    call = meter.begin()
    meter.run(2)
    assert meter.end(call).above_idle_joules == pytest.approx(0, abs=1e-6)


def test_energy_above_idle_is_not_negative():
    meter = Meter(lambda time_s: 100.0 if time_s < 1 else 60.0)
    meter.run(1, idle=HERE)
    call = meter.begin()
    meter.run(2)
    assert meter.end(call).above_idle_joules == 0


def test_idle_power_outlives_a_reset_of_the_counter():
    meter = Meter(lambda _: 100.0)
    meter.run(1, idle=HERE)
    meter.energy_j = 0.0
    meter.run(0.1)
    call = meter.begin()
    meter.run(2)
    assert meter.end(call).above_idle_joules == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("pause_s", "known"), [(14.9, True), (15.1, False)])
def test_energy_of_an_interval_above_15_seconds_is_unknown(pause_s, known):
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    meter.pause(pause_s)
    meter.settle()
    meter.run(2)
    energy = meter.end(call)
    assert (energy is not None) == known
    assert not known or energy.joules == pytest.approx(100 * (4 + pause_s))


@pytest.mark.parametrize(("pause_s", "known"), [(15.0, True), (15.1, False)])
def test_end_of_a_call_is_estimated_for_15_seconds(pause_s, known):
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    meter.pause(pause_s)
    energy = meter.end(call)
    assert (energy is not None) == known
    assert not known or energy.joules == pytest.approx(100 * (2 + pause_s))


def test_second_reading_at_the_same_time_changes_nothing():
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    meter.ledger.settle({"GPU-0": (meter.now_s, meter.energy_j + 50)})
    meter.run(2)
    assert meter.end(call).joules == pytest.approx(400)


def test_call_that_ends_before_its_start_has_no_energy():
    meter = Meter(lambda _: 100.0)
    lasting = meter.begin()
    meter.run(1)
    key = meter.begin()
    assert meter.ledger.finish(key, meter.now_s - 0.5) is None
    meter.run(1)
    assert meter.end(lasting).joules == pytest.approx(200)


def test_energy_of_a_call_too_short_to_report_belongs_to_it():
    meter = Meter(lambda _: 100.0)
    lasting, short = meter.begin(), meter.begin()
    meter.run(0.55)
    assert meter.end(short) is None
    meter.run(1.45)
    assert meter.end(lasting).joules == pytest.approx(200 - 0.55 * 50)


def test_start_asks_for_a_reading_where_an_idle_interval_ends():
    ledger = EnergyLedger()
    ledger.place({"a": frozenset({"GPU-0"}), "b": frozenset({"GPU-0", "GPU-1"})})
    keys = [Key() for _ in range(5)]
    assert ledger.start(keys[0], "unknown", 0.0)  # its GPUs must be looked up
    assert ledger.start(keys[1], "a", 0.0)
    assert not ledger.start(keys[2], "a", 0.0)
    assert ledger.start(keys[3], "b", 0.0)  # GPU-1 was idle
    assert not ledger.start(keys[4], "a", 0.0)
    assert ledger.engines_in_flight() == {"unknown", "a", "b"}
    assert ledger.calls_in_flight() == {"GPU-0": 4, "GPU-1": 1}
    assert all(ledger.is_open(key) for key in keys)


@pytest.mark.parametrize("reset", ["clear", "after_fork"])
def test_reset_ledger_has_no_calls(reset):
    meter = Meter(lambda _: 100.0)
    call, ended = meter.begin(), meter.begin()
    meter.run(2)
    meter.end(ended)
    getattr(meter.ledger, reset)()
    assert not meter.ledger.is_open(call)
    assert not meter.ledger.is_busy()
    meter.settle()
    after = meter.begin()
    meter.run(2)
    energy = meter.end(after)
    assert (energy.joules, energy.attribution) == (pytest.approx(200), "exclusive")


def test_calls_one_after_the_other_beside_a_lasting_one_are_shared():
    """All within one interval of four seconds."""
    lasting = _EnergyShare("engine", 0.0)
    calls = [lasting, _EnergyShare("engine", 1.0, 2.0), _EnergyShare("engine", 2.0, 3.0)]
    assert _parts(calls, 0.0, 4.0, 0) == [3.0, 0.5, 0.5]
    assert all(call.shared for call in calls)
    alone = _EnergyShare("engine", 0.0)
    assert _parts([alone], 1.0, 4.0, 0) == [3.0]
    assert not alone.shared

"""How the energy of a GPU is shared among calls, with readings that are made up."""

from __future__ import annotations

import random

import pytest

from llamatelemetry.gpu.energy import EnergyLedger

HERE = frozenset({"GPU-0"})


class Key:
    """What a span is to the ledger."""


class Meter:
    """A GPU with a power curve, and a ledger that is told of it every tenth of a second."""

    def __init__(self, power, devices=HERE):
        self.power = power
        self.devices = devices
        self.ledger = EnergyLedger()
        self.ledger.place({"engine": frozenset(devices)})
        self.now_s = 0.0
        self.energy_j = 1000.0
        self.settle()

    def settle(self, idle=()):
        self.ledger.settle(dict.fromkeys(self.devices, (self.now_s, self.energy_j)), idle)

    def run(self, seconds, idle=()):
        for _ in range(round(seconds * 1000)):
            self.energy_j += self.power(self.now_s) / 1000
            self.now_s = round(self.now_s + 0.001, 6)
            if round(self.now_s * 1000) % 100 == 0:
                self.settle(idle)

    def begin(self, engine="engine"):
        key = Key()
        self.ledger.begin(key, engine, self.now_s)
        return key

    def end(self, key):
        return self.ledger.end(key, self.now_s)


def test_a_call_alone_has_all_of_its_time():
    meter = Meter(lambda _: 300.0)
    meter.run(1.05)
    call = meter.begin()
    meter.run(2.5)
    energy = meter.end(call)
    assert energy.joules == pytest.approx(750, rel=0.001)
    assert energy.attribution == "exclusive"
    assert energy.above_idle_joules is None  # the GPU was never seen idle


def test_calls_that_overlap_share_each_moment_equally():
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


def test_what_the_gpu_uses_idle_is_taken_off_in_the_second_figure():
    meter = Meter(lambda time_s: 60.0 if time_s < 2 else 260.0)
    meter.run(2, idle=HERE)
    call = meter.begin()
    meter.run(3)
    energy = meter.end(call)
    assert energy.joules == pytest.approx(780, rel=0.001)
    assert energy.above_idle_joules == pytest.approx(600, rel=0.001)


def test_a_gpu_that_somebody_else_keeps_busy_is_not_idle():
    meter = Meter(lambda _: 260.0)
    meter.run(2, idle=())
    call = meter.begin()
    meter.run(3)
    assert meter.end(call).above_idle_joules is None


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.9])
def test_a_call_of_fewer_than_ten_steps_of_the_counter_has_no_energy(seconds):
    meter = Meter(lambda _: 300.0)
    meter.run(1)
    call = meter.begin()
    meter.run(seconds)
    assert meter.end(call) is None


def test_a_counter_that_stands_still_has_no_steps():
    meter = Meter(lambda _: 0.0)
    call = meter.begin()
    meter.run(5)
    assert meter.end(call) is None


def test_an_engine_that_is_not_on_the_gpus_has_no_energy():
    meter = Meter(lambda _: 300.0)
    elsewhere, here = meter.begin("cloud"), meter.begin()
    assert meter.ledger.is_busy()
    meter.run(2)
    assert meter.end(elsewhere) is None
    assert meter.end(here).attribution == "exclusive"
    assert not meter.ledger.is_busy()


def test_an_engine_on_two_gpus_uses_both():
    meter = Meter(lambda _: 150.0, devices={"GPU-0", "GPU-1"})
    call = meter.begin()
    meter.run(2)
    assert meter.end(call).joules == pytest.approx(600, rel=0.001)


def test_a_gpu_without_a_counter_leaves_the_sum_unknown():
    meter = Meter(lambda _: 150.0)
    meter.ledger.place({"engine": frozenset({"GPU-0", "GPU-1"})})
    call = meter.begin()
    meter.run(2)
    assert meter.end(call) is None


def test_a_counter_that_starts_again_does_not_take_energy_back():
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    meter.energy_j = 0.0  # the driver was loaded anew
    meter.run(2)
    assert 0 < meter.end(call).joules <= 400


def test_a_span_that_is_dropped_is_not_in_flight_for_ever():
    meter = Meter(lambda _: 100.0)
    meter.begin()
    assert not meter.ledger.is_busy()


def test_a_span_that_ends_while_the_same_thread_is_in_the_ledger_does_not_wait_for_itself():
    """As one in a generator that the garbage collector closes there."""
    meter = Meter(lambda _: 100.0)
    key = meter.begin()
    with meter.ledger._lock:
        meter.end(key)
    assert not meter.ledger.is_busy()


def test_a_call_ends_once():
    meter = Meter(lambda _: 100.0)
    call = meter.begin()
    meter.run(2)
    assert meter.end(call) is not None
    assert meter.end(call) is None


def test_what_was_estimated_wrongly_goes_to_the_calls_that_are_still_open():
    """The power falls with a reading, and a call ends before the next: it is thought to be high."""
    meter = Meter(lambda time_s: 600.0 if time_s < 2 else 100.0)
    first, second = meter.begin(), meter.begin()
    meter.run(2.05)
    first_energy = meter.end(first)
    meter.run(2)
    second_energy = meter.end(second)
    assert first_energy.joules == pytest.approx(600 + 600 * 0.05 / 2)
    assert first_energy.joules + second_energy.joules == pytest.approx(1200 + 100 * 2.05)


@pytest.mark.parametrize("seed", range(8))
def test_the_shares_add_up_to_the_counter(seed):
    """Random calls on a random curve of steps; the counter goes by whenever a call is in flight."""
    chance = random.Random(seed)
    levels = [chance.choice((70.0, 180.0, 420.0, 650.0)) for _ in range(400)]
    meter = Meter(lambda time_s: levels[int(time_s / 0.25)])
    meter.run(1)
    before_j = meter.energy_j
    # One is open all the time, so that the counter is somebody's all the time.
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

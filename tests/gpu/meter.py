"""A synthetic GPU whose energy is read into an `EnergyLedger`."""

from __future__ import annotations

from llamatelemetry.gpu.energy import EnergyLedger

HERE = frozenset({"GPU-0"})


class Key:
    """Stand-in for a span, which is only a key here."""


class Meter:
    """A GPU with a power curve, read into a ledger every 100 ms."""

    def __init__(self, power, devices=HERE):
        self.power = power
        self.devices = devices
        self.ledger = EnergyLedger()
        self.ledger.place({"engine": frozenset(devices)})
        self.now_s = 0.0
        self.energy_j = 1000.0
        self.settle()

    def settle(self, idle=(), others=None):
        readings = dict.fromkeys(self.devices, (self.now_s, self.energy_j))
        self.ledger.settle(readings, idle, others)

    def pause(self, seconds):
        """Let time pass without a reading."""
        self.energy_j += self.power(self.now_s) * seconds
        self.now_s = round(self.now_s + seconds, 6)

    def run(self, seconds, idle=(), others=None):
        for _ in range(round(seconds * 1000)):
            self.energy_j += self.power(self.now_s) / 1000
            self.now_s = round(self.now_s + 0.001, 6)
            if round(self.now_s * 1000) % 100 == 0:
                self.settle(idle, others)

    def begin(self, engine="engine"):
        key = Key()
        self.ledger.start(key, engine, self.now_s)
        return key

    def end(self, key):
        return self.ledger.finish(key, self.now_s)

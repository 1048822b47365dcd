"""The machine of a benchmark: its description, clocks, GPU energy, and the run's fingerprint."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from llamatelemetry import __version__

if TYPE_CHECKING:
    from llamatelemetry.bench.load.prompts import Conversation
    from llamatelemetry.bench.load.schedule import Load
    from llamatelemetry.bench.targets.target import ServerFacts
    from llamatelemetry.genai import Server

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_IDLE_SAMPLES: Final = 5
_IDLE_INTERVAL_S: Final = 0.1


def describe_machine() -> dict[str, Any]:
    """Return versions, platform and processor."""
    return {
        "llamatelemetry": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def fingerprint(
    facts: ServerFacts,
    conversations: Sequence[Conversation],
    load: Load,
    gpus: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the conditions that must be equal in two benchmarks to compare them.

    Prompts contribute only their number and lengths, because a digest of their text would allow
    guessing the text.
    """
    return {
        **facts.fingerprint,
        "machine": f"{_processor()} x {os.cpu_count()}",
        **({"gpus": list(gpus)} if gpus else {}),
        "prompts": len(conversations),
        "prompt_lengths": _lengths_digest(conversations),
        **{f"load.{name}": value for name, value in load.describe().items()},
        **settings,
    }


def _lengths_digest(conversations: Sequence[Conversation]) -> str:
    lengths = [
        [len(str(message.get("content"))) for turn in each.turns for message in turn]
        for each in conversations
    ]
    return hashlib.sha256(repr(lengths).encode()).hexdigest()[:16]


class Clocks:
    """Wall, monotonic and CPU time since the start of a run."""

    def __init__(self) -> None:
        self.started_unix_s = time.time()
        self._started_s = time.perf_counter()
        self._cpu_s = time.process_time()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, by the monotonic clock."""
        return time.perf_counter() - self._started_s

    @property
    def jump_s(self) -> float:
        """Seconds by which the wall clock moved relative to the monotonic clock."""
        return time.time() - self.started_unix_s - self.elapsed_s

    @property
    def cpu_share(self) -> float:
        """CPU time of this process divided by elapsed time; 1 is one full core."""
        elapsed_s = self.elapsed_s
        return (time.process_time() - self._cpu_s) / elapsed_s if elapsed_s else 0.0


class GpuMeter:
    """Measures the energy of the GPUs that an engine on this machine uses.

    Measures nothing for a remote server, or if no process uses a GPU. `server` is `None` for an
    engine in this process.
    """

    def __init__(self, server: Server | None) -> None:
        self._reader: Any = None
        self._devices: list[Any] = []
        self._start_energy_j: list[float | None] = []
        self.idle_w: float | None = None
        self.energy_j: float | None = None
        if server is None or server.address in _LOOPBACK:
            self._open()

    @property
    def names(self) -> list[str]:
        """Names of the measured GPUs."""
        return [str(device.name) for device in self._devices]

    def _open(self) -> None:
        from llamatelemetry.gpu import GpuUnavailableError, NvmlReader, detect_cuda
        from llamatelemetry.gpu.reader import GpuLostError

        # A machine without a GPU is a normal state.
        with suppress(GpuUnavailableError, GpuLostError):
            visible = {device.uuid for device in detect_cuda().devices}
            self._reader = NvmlReader()
            found = [device for device in self._reader.open() if device.uuid in visible]
            self._devices = [device for device in found if self._reader.processes(device) != {}]

    def measure_idle(self) -> None:
        """Measure the idle power of the GPUs, before the first request."""
        if not self._devices:
            return
        samples_w: list[float] = []
        for _ in range(_IDLE_SAMPLES):
            powers = [state.power_w for state in self._states()]
            if None in powers or not powers:
                return
            samples_w.append(sum(powers))
            time.sleep(_IDLE_INTERVAL_S)
        self.idle_w = sum(samples_w) / len(samples_w)

    def start(self) -> None:
        """Read the energy counters at the start of a run."""
        self._start_energy_j = [state.energy_j for state in self._states()]

    def finish(self) -> list[str]:
        """Set `energy_j` to the energy used since `start()`. Return warnings about throttling."""
        end, start = [state.energy_j for state in self._states()], self._start_energy_j
        self.energy_j = None
        if end and len(end) == len(start) and None not in [*end, *start]:
            self.energy_j = sum(end) - sum(energy_j or 0.0 for energy_j in start)
        return self._throttling_warnings()

    def _states(self) -> list[Any]:
        # A lost GPU raises, and a sum over the remaining ones would be wrong.
        try:
            return [self._reader.state(device) for device in self._devices]
        except Exception:
            return []

    def _throttling_warnings(self) -> list[str]:
        found: list[str] = []
        for device in self._devices:
            with suppress(Exception):
                reasons = self._reader.details(device).throttle_reasons
                if reasons:
                    found.append(
                        f"{device.name} was throttled at the end of the run: {', '.join(reasons)}"
                    )
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.close()

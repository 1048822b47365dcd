"""The NVML library of `nvml.c`: compiled once, loaded like the driver's, controlled by a JSON file.

A test changes the devices through `Driver` while the code under test runs, and reads which thread
has called which function.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.components import require

GIB = 1024**3
LOST, RESET_REQUIRED = 15, 16
EVERY_LINK = 0xFFFFFFFF

_SOURCE = Path(__file__).with_name("nvml.c")


@functools.cache
def library() -> Path:
    """Return the directory of libnvidia-ml.so.1; compile it if the source has changed."""
    require("cc")
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"llamatelemetry-test-nvml-{os.getuid()}-{digest}"
    target = folder / "libnvidia-ml.so.1"
    if not target.exists():
        folder.mkdir(exist_ok=True)
        compiled(folder / f"{os.getpid()}.so").replace(target)
    return folder


def compiled(target: Path) -> Path:
    """Compile the library into this file."""
    command = ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    command += ["-Wl,-soname,libnvidia-ml.so.1", "-o", target, _SOURCE, "-lpthread"]
    subprocess.run(command, check=True)
    return target


@functools.cache
def load() -> None:
    """Load the library into this process, so that the next dlopen of its soname finds it."""
    ctypes.CDLL(str(library() / "libnvidia-ml.so.1"))


class Call(NamedTuple):
    pid: int
    thread: int
    function: str


class Driver:
    """A JSON file of devices, and the log of the calls.

    Args:
        folder: where both files are.
        machine: one of the shapes below.
    """

    def __init__(self, folder: Path, machine: dict[str, Any]) -> None:
        self.file = folder / "nvml.json"
        self.log = folder / "nvml.calls"
        self.machine = machine
        self.write()

    @property
    def environment(self) -> dict[str, str]:
        """Environment for a child process, which finds the library like a driver's."""
        return {
            "LD_LIBRARY_PATH": str(library()),
            "NVML_DEVICES": str(self.file),
            "NVML_CALL_LOG": str(self.log),
        }

    def write(self) -> None:
        """Apply the changes in `machine` atomically."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(self.machine))
        draft.replace(self.file)

    def change(self, index: int = 0, **values: Any) -> None:
        self.machine["devices"][index].update(values)
        self.write()

    def lose(self, index: int = 0) -> None:
        self.change(index, errors={"*": LOST})

    def calls(self) -> list[Call]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [
            Call(int(pid), int(thread), name) for pid, thread, name in (x.split() for x in lines)
        ]

    def count(self) -> Counter[str]:
        return Counter(call.function for call in self.calls())

    def energy_j(self, index: int = 0, at_s: float | None = None) -> float:
        """Return the exact energy, in joules, at a Unix time."""
        device = self.machine["devices"][index]
        elapsed = (time.time() if at_s is None else at_s) - self.machine["start"]
        curve = device["power"]
        if not isinstance(curve, list):
            return device["energy_base_j"] + curve * elapsed
        total = device["energy_base_j"]
        for (since, power), until in zip(
            curve, [*(step[0] for step in curve[1:]), elapsed], strict=True
        ):
            total += power * max(0.0, min(until, elapsed) - since)
        return total


def machine(*devices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "driver": "570.133.20",
        "cuda": 12080,
        "start": time.time(),
        "devices": list(devices),
        **more,
    }


def uuid(index: int) -> str:
    return f"GPU-{index:08x}-1111-2222-3333-444455556666"


def bus_id(index: int) -> str:
    return f"00000000:{0x1B + 0x10 * index:02X}:00.0"


def gpu(index: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a data center GPU that supports every query."""
    return {
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": uuid(index),
        "serial": f"16542230{index:05}",
        "vbios": "96.00.74.00.01",
        "bus_id": bus_id(index),
        "minor": index,
        "compute_capability": {"major": 9, "minor": 0},
        "memory_total": 80 * GIB,
        "memory_used": 20 * GIB,
        "memory_reserved": GIB // 2,
        "utilization": {"gpu": 40, "memory": 25},
        "encoder": {"utilization": 0, "period": 100000},
        "decoder": {"utilization": 5, "period": 100000},
        "power": 300.5,
        "power_limit": 700,
        "energy_base_j": 1_000_000,
        "temperature": 55,
        "clocks": {"graphics": 1980, "sm": 1980, "memory": 2619},
        "throttle": 0,
        "ecc": {"corrected": 2, "uncorrected": 0},
        "pcie": {"generation": 5, "width": 16, "max_generation": 5, "max_width": 16},
        "fields": {
            "197": 1_000_000,
            "198": 2_000_000,
            f"138/{EVERY_LINK}": 3_000,
            f"139/{EVERY_LINK}": 4_000,
        },
        "processes": [],
        "numa_node": index // 4,
        **changes,
    }


def one_gpu(**changes: Any) -> dict[str, Any]:
    return machine(gpu(0, **changes))


def eight_with_nvswitch() -> dict[str, Any]:
    """Return an HGX machine: 18 links from each GPU to the switches, two sockets of four GPUs."""
    links = [
        {"active": 1, "version": 4, "remote_type": 2, "remote": f"00000000:{0x05 + n % 4:02X}:00.0"}
        for n in range(18)
    ]
    sockets = (
        ["ffffffffffff", "ffffffffffff0000"],  # CPUs 0-47 and 112-159
        ["ffff000000000000", "ffffffff", "0", "0"],
    )
    return machine(
        *(
            gpu(
                i,
                nvlinks=links,
                cpu_affinity=sockets[i // 4],
                memory_affinity=[f"{1 << (i // 4):x}"],
                ancestors={str(j): 40 if i // 4 == j // 4 else 50 for j in range(i)},
                p2p={str(j): [0, 0, 0, 0, 0] for j in range(i)},
            )
            for i in range(8)
        )
    )


def four_on_pcie() -> dict[str, Any]:
    """Return two pairs of GPUs, each behind a PCIe switch of its socket, without NVLink."""

    def ancestor(one: int, other: int) -> int:
        return 10 if one // 2 == other // 2 else 50

    return machine(
        *(
            gpu(
                i,
                name="NVIDIA L40S",
                compute_capability={"major": 8, "minor": 9},
                numa_node=i // 2,
                cpu_affinity=["ffffffff" if i // 2 == 0 else "ffffffff00000000"],
                memory_affinity=[f"{1 << (i // 2):x}"],
                ancestors={str(j): ancestor(i, j) for j in range(i)},
                p2p={str(j): [0, 0, 5, 5, 0] for j in range(i)},
                fields={},
            )
            for i in range(4)
        )
    )


def with_mig() -> dict[str, Any]:
    """Return an A100 with a 3g.20gb and a 4g.20gb instance, and an unpartitioned one."""

    def instance(number: int, slices: int) -> dict[str, Any]:
        return {
            "uuid": f"MIG-0000000{number}-aaaa-bbbb-cccc-dddddddddddd",
            "name": f"NVIDIA A100-SXM4-40GB MIG {slices}g.20gb",
            "gpu_instance": number,
            "compute_instance": 0,
            "memory_total": 20 * GIB,
            "memory_used": number * GIB,
        }

    a100 = {"name": "NVIDIA A100-SXM4-40GB", "compute_capability": {"major": 8, "minor": 0}}
    whole = {"memory_total": 40 * GIB, "memory_used": 3 * GIB}
    cut = gpu(
        0,
        **a100,
        **whole,
        mig={"mode": 1, "pending": 0, "instances": [instance(1, 3), instance(2, 4)]},
    )
    for key in ("utilization", "encoder", "decoder"):  # not supported by real devices in MIG mode
        del cut[key]
    return machine(cut, gpu(1, **a100, **whole, mig={"mode": 0, "pending": 1, "instances": []}))


def answers_almost_nothing() -> dict[str, Any]:
    return {"start": time.time(), "devices": [{"uuid": uuid(0)}]}


def slow(delay_ms: int = 200) -> dict[str, Any]:
    return machine(gpu(0), delay_ms={"*": delay_ms})


def run_python(code: str, driver: Driver | None, **environment: str) -> str:
    """Run a program on this machine, or without a driver, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | (driver.environment if driver else {}) | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def driver_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Driver]:
    """Return a function that installs an NVIDIA driver with these devices for one test."""
    load()

    def make(machine: dict[str, Any]) -> Driver:
        driver = Driver(tmp_path, machine)
        for name, value in driver.environment.items():
            monkeypatch.setenv(name, value)
        return driver

    return make

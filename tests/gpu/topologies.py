"""Real machines as NVML describes them. `topo/` has their output of `nvidia-smi topo -m`.

Published tables: a DGX H100 (vllm-project/vllm#13855), four L40S on PCIe
(warpem/miss-alignment#106), five GeForces behind the host bridges of two sockets
(noonghunna/club-3090#46), four H100 with NVLinks from each to each (NVIDIA/nccl#1617). The
legends are shortened, and the last rows of the DGX, which are cut off there, follow from its
columns.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

from tests.support import nvml

FOLDER = Path(__file__).with_name("topo")
SWITCHES = [f"00000000:{0x05 + n:02X}:00.0" for n in range(4)]
NODE, SYS, PHB = 40, 50, 30


def printed(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text()


def mask(ranges: str) -> list[str]:
    """Convert a set of CPUs to 64-bit words as in NVML: `"0-3,64"` is `["f", "1"]`."""
    bits = 0
    for each in ranges.split(","):
        first, _, last = each.partition("-")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    return [f"{bits >> shift & (2**64 - 1):x}" for shift in range(0, bits.bit_length(), 64)]


def _gpu(index: int, cpus: str, node: int, **more: Any) -> dict[str, Any]:
    found = nvml.gpu(index, cpu_affinity=mask(cpus), memory_affinity=mask(str(node)), **more)
    del found["numa_node"]  # only memory that is coherent with the CPU has a NUMA node
    return found


def eight_h100_nvswitch(**link: Any) -> dict[str, Any]:
    """Return a machine with 18 links from each GPU to four switches.

    Args:
        link: what differs about every link.
    """
    into_switches = [
        {"active": 1, "version": 4, "remote_type": 2, "remote": SWITCHES[n % 4], **link}
        for n in range(18)
    ]
    return nvml.machine(
        *(
            _gpu(
                i,
                "0-55,112-167" if i < 4 else "56-111,168-223",
                i // 4,
                nvlinks=into_switches,
                ancestors={str(j): NODE if i // 4 == j // 4 else SYS for j in range(i)},
                p2p={str(j): [0, 0, 0, 0, 5] for j in range(i)},
            )
            for i in range(8)
        )
    )


def four_l40s_pcie() -> dict[str, Any]:
    return nvml.machine(
        *(
            _gpu(
                i,
                "0-95,192-287" if i < 2 else "96-191,288-383",
                i // 2,
                name="NVIDIA L40S",
                ancestors={str(j): NODE if i // 2 == j // 2 else SYS for j in range(i)},
                p2p={str(j): [0, 0, 5, 5, 0] for j in range(i)},
            )
            for i in range(4)
        )
    )


def five_geforce_pcie() -> dict[str, Any]:
    def ancestor(one: int, other: int) -> int:
        if 0 in (one, other):
            return SYS
        return PHB if {one, other} in ({1, 2}, {3, 4}) else NODE

    return nvml.machine(
        *(
            _gpu(
                i,
                "0-7,16-23" if i else "8-15,24-31",
                0 if i else 1,
                name="NVIDIA GeForce RTX 4090",
                ancestors={str(j): ancestor(i, j) for j in range(i)},
                p2p={str(j): [1, 1, 5, 5, 1] for j in range(i)},
            )
            for i in range(5)
        )
    )


def four_h100_direct() -> dict[str, Any]:
    """Return a machine with six links per pair. Spellings of bus IDs differ, as in real drivers."""
    to: dict[int, list[dict[str, Any]]] = {i: [] for i in range(4)}
    for one, other in combinations(range(4), 2):
        for near, far in ((one, other), (other, one)):
            remote = nvml.bus_id(far).removeprefix("0000").lower()
            to[near] += [{"active": 1, "version": 4, "remote_type": 0, "remote": remote}] * 6
    near_cpus = ("6,14,22,30", "4,12,20,28", "7,15,23,31", "5,13,21,29")
    return nvml.machine(
        *(
            _gpu(
                i,
                near_cpus[i],
                (3, 1, 7, 5)[i],
                nvlinks=to[i],
                ancestors={str(j): SYS for j in range(i)},
                p2p={str(j): [0, 0, 0, 0, 0] for j in range(i)},
            )
            for i in range(4)
        )
    )

"""Read the topology of NVIDIA GPUs from NVML, and the NICs from nvidia-smi."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.gpu.nvml.session import NvmlSession
from llamatelemetry.gpu.reader import GpuLostError, GpuUnavailableError
from llamatelemetry.gpu.topology.model import Links, Topology, TopologyGpu
from llamatelemetry.gpu.topology.nics import read_nics

if TYPE_CHECKING:
    from collections.abc import Sequence

# nvmlGpuTopologyLevel. 0 is two chips on one board, which nvidia-smi also shows as PIX.
_PCIE_LEVELS: Final = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
# nvmlGpuP2PCapsIndex and nvmlGpuP2PStatus, as numbers: a constant of nvidia-ml-py is a tuple, because
# of a trailing comma.
_P2P_KINDS: Final = {"read": 0, "write": 1, "nvlink": 2, "atomics": 3, "pcie": 4}
_P2P_STATUS: Final = ("OK", "CNS", "GNS", "TNS", "DR", "NS", "U")
_MOST_NVLINKS: Final = 36  # NVML_NVLINK_MAX_LINKS; drivers reject the numbers of missing links
_IS_GPU, _IS_SWITCH = 0, 2  # nvmlIntNvLinkDeviceType
_NO_BUS: Final = "FFFFFFFF:"
_AFFINITY_WORDS: Final = 64  # enough for 4096 CPUs or nodes
_SCOPE_NODE: Final = 0


@dataclass(frozen=True, slots=True)
class _Board:
    """A GPU, its active NVLinks by the bus ID of the other end, and those to switches."""

    handle: Any
    gpu: TopologyGpu
    nvlinks_to: Counter[str]
    nvlinks_to_switches: int


def read_topology() -> Topology:
    """Return the topology of this machine. Never raises."""
    try:
        with NvmlSession() as nvml:
            boards = _boards(nvml)
            between = {
                (one.gpu.label, other.gpu.label): _links(nvml, one, other)
                for one, other in combinations(boards, 2)
            }
    except GpuUnavailableError as error:
        return Topology(reason=str(error))
    except Exception as error:  # a broken library counts as no GPU
        return Topology(reason=f"NVML failed: {error}")
    if not boards:
        return Topology(reason="the NVIDIA driver is installed, but lists no GPU")
    gpus = tuple(board.gpu for board in boards)
    nics, near_nics = read_nics([gpu.label for gpu in gpus])
    return Topology(gpus, nics, {**between, **near_nics})


def _boards(nvml: NvmlSession) -> list[_Board]:
    boards = list[_Board]()
    for index in range(nvml.query("nvmlDeviceGetCount") or 0):
        try:
            board = _board(nvml, index)
        except GpuLostError:
            continue  # a broken device must not hide the others
        if board is not None:
            boards.append(board)
    return boards


def _board(nvml: NvmlSession, index: int) -> _Board | None:
    handle = nvml.query("nvmlDeviceGetHandleByIndex", index)
    uuid = None if handle is None else nvml.query("nvmlDeviceGetUUID", handle)
    if uuid is None:
        return None
    direct, to_switches = _nvlinks(nvml, handle)
    gpu = TopologyGpu(
        index=index,
        uuid=uuid,
        name=nvml.query("nvmlDeviceGetName", handle),
        pci_bus_id=nvml.bus_id(handle),
        cpu_affinity=_ranges(nvml.query("nvmlDeviceGetCpuAffinity", handle, _AFFINITY_WORDS)),
        numa_affinity=_ranges(
            nvml.query("nvmlDeviceGetMemoryAffinity", handle, _AFFINITY_WORDS, _SCOPE_NODE)
        ),
        gpu_numa_node=nvml.query("nvmlDeviceGetNumaNodeId", handle),
        nvlinks_active=direct.total() + to_switches,
    )
    return _Board(handle, gpu, direct, to_switches)


def _nvlinks(nvml: NvmlSession, handle: Any) -> tuple[Counter[str], int]:
    """Return the number of active links by the bus ID of the other end, and to switches."""
    direct, to_switches = Counter[str](), 0
    for link in range(_MOST_NVLINKS):
        if nvml.query("nvmlDeviceGetNvLinkState", handle, link) != 1:
            continue
        kind = nvml.query("nvmlDeviceGetNvLinkRemoteDeviceType", handle, link)
        bus_id = _bus(nvml.bus_id(handle, link) or _NO_BUS)
        # In a virtual machine the switches are hidden, so the other end has no bus ID.
        if kind == _IS_SWITCH or (kind != _IS_GPU and bus_id.startswith(_NO_BUS)):
            to_switches += 1
        else:
            direct[bus_id] += 1
    return direct, to_switches


def _links(nvml: NvmlSession, one: _Board, other: _Board) -> Links:
    direct = max(_direct(one, other), _direct(other, one))
    # Switches connect every link of a GPU to every other GPU.
    switched = min(one.nvlinks_to_switches, other.nvlinks_to_switches)
    try:
        level = nvml.query("nvmlDeviceGetTopologyCommonAncestor", one.handle, other.handle)
        p2p = _p2p(nvml, one, other)
    except GpuLostError:  # lost since it was listed
        level, p2p = None, {}
    return Links(
        nvlinks=direct or switched,
        through_nvswitch=bool(switched and not direct),
        pcie=None if level is None else _PCIE_LEVELS.get(level),
        p2p=p2p,
    )


def _direct(one: _Board, other: _Board) -> int:
    bus_id = other.gpu.pci_bus_id
    return 0 if bus_id is None else one.nvlinks_to[_bus(bus_id)]


def _p2p(nvml: NvmlSession, one: _Board, other: _Board) -> dict[str, str]:
    found = {
        kind: nvml.query("nvmlDeviceGetP2PStatus", one.handle, other.handle, index)
        for kind, index in _P2P_KINDS.items()
    }
    return {
        kind: _P2P_STATUS[status] if status < len(_P2P_STATUS) else "U"
        for kind, status in found.items()
        if status is not None
    }


def _bus(bus_id: str) -> str:
    """Normalize a bus ID: the domain may have 4 or 8 digits, in upper or lower case."""
    domain, _, rest = bus_id.upper().partition(":")
    return f"{domain.zfill(8)}:{rest}"


def _ranges(words: Sequence[int] | None) -> str | None:
    """Return the set bits of 64-bit words as ranges, such as `0-55,112-167`; `None` if none is set."""
    ranges, start = list[str](), None
    bits = [bool(word >> bit & 1) for word in words or () for bit in range(64)]
    for number, is_set in enumerate((*bits, False)):
        if is_set and start is None:
            start = number
        elif not is_set and start is not None:
            ranges.append(str(start) if start == number - 1 else f"{start}-{number - 1}")
            start = None
    return ",".join(ranges) or None

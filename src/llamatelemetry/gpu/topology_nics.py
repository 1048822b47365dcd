"""The network adapters that ``nvidia-smi topo -m`` lists, and how near each is to each GPU.

NVML knows nothing of them, so this is the one thing that is read from that program's output.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Final

from llamatelemetry.gpu.topology import Links, TopologyNic

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMEOUT_S: Final = 30.0  # without persistence mode it starts the driver first
_UNDERLINED: Final = re.compile(r"\x1b\[[0-9;]*m")  # its header, on a terminal
_GPU: Final = re.compile(r"GPU\d+")
_PCIE: Final = re.compile(r"PIX|PXB|PHB|NODE|SYS")
_LEGEND: Final = re.compile(r"^\s+(NIC\d+): (\S+)", re.MULTILINE)
_FIRST_AFFINITY: Final = "CPU Affinity"

Near = dict[tuple[str, str], Links]


def read_nics(gpus: Sequence[str]) -> tuple[tuple[TopologyNic, ...], Near]:
    """Ask nvidia-smi for the NICs and what lies between them, each other and these GPUs.

    Nothing is found where there is no such program, or none that answers.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), {}
    try:
        done = subprocess.run(
            [program, "topo", "-m"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return (), {}
    if done.returncode != 0:
        return (), {}
    return nics_in(done.stdout.decode(errors="replace"), gpus)


def nics_in(output: str, gpus: Sequence[str]) -> tuple[tuple[TopologyNic, ...], Near]:
    """Read the NICs out of what ``nvidia-smi topo -m`` has printed.

    Args:
        output: columns and rows are parted by tabs; a legend follows.
        gpus: the labels of those that are known; of others nothing is told.
    """
    table = [line.split("\t") for line in _UNDERLINED.sub("", output).splitlines()]
    headers = (_stripped(row) for row in table if "GPU0" in _stripped(row)[1:])
    header = next(headers, list[str]())
    if _FIRST_AFFINITY in header:
        header = header[: header.index(_FIRST_AFFINITY)]
    # Old drivers head the columns with the names themselves.
    labels = [cell for cell in header[1:] if cell and not _GPU.fullmatch(cell)]
    names = dict(_LEGEND.findall(output))
    rows = {row[0].strip(): _stripped(row) for row in table if row[0].strip() in header[1:]}
    near: Near = {}
    for one, other in combinations([*gpus, *labels], 2):
        if other not in labels or other not in header:
            continue
        column = header.index(other)
        cell = rows.get(one, [])[column : column + 1]
        if cell and _PCIE.fullmatch(cell[0]):
            near[one, other] = Links(pcie=cell[0])
    return tuple(TopologyNic(label, names.get(label, label)) for label in labels), near


def _stripped(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row]

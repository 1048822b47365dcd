"""Network adapters and their distance to the GPUs, parsed from `nvidia-smi topo -m`.

NVML does not list network adapters.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Final

from llamatelemetry.gpu.topology.model import Links, TopologyNic

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIMEOUT_S: Final = 30.0  # without persistence mode it first loads the driver
_UNDERLINED: Final = re.compile(r"\x1b\[[0-9;]*m")  # the header is underlined in a terminal
_GPU: Final = re.compile(r"GPU\d+")
_PCIE: Final = re.compile(r"PIX|PXB|PHB|NODE|SYS")
_LEGEND: Final = re.compile(r"^\s+(NIC\d+): (\S+)", re.MULTILINE)
_FIRST_AFFINITY: Final = "CPU Affinity"

Near = dict[tuple[str, str], Links]


def read_nics(gpus: Sequence[str]) -> tuple[tuple[TopologyNic, ...], Near]:
    """Return the NICs, and their connections to each other and to these GPUs.

    Returns nothing if nvidia-smi is missing or fails.
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
    return parse_nics(done.stdout.decode(errors="replace"), gpus)


def parse_nics(output: str, gpus: Sequence[str]) -> tuple[tuple[TopologyNic, ...], Near]:
    """Parse the output of `nvidia-smi topo -m`. Connections to other GPUs are omitted."""
    table = [line.split("\t") for line in _UNDERLINED.sub("", output).splitlines()]
    headers = (_stripped(row) for row in table if "GPU0" in _stripped(row)[1:])
    header = next(headers, list[str]())
    if _FIRST_AFFINITY in header:
        header = header[: header.index(_FIRST_AFFINITY)]
    # Old drivers use the device names as column headers.
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

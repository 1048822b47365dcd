"""What a server's log says about its loading: where the memory went, and the GPU's layers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_BUFFER = re.compile(r"(\S+) +(model|KV|RS|output|compute) buffer size = *([\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_KINDS = {"model": "model", "KV": "context", "RS": "context", "output": "context"}
_MIB = 1024 * 1024


@dataclass(slots=True)
class LoadReport:
    """Bytes by kind (model, context, compute) and device; empty when the log does not tell."""

    memory: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    gpu_layers: int | None = None
    model_layers: int | None = None

    def read(self, line: str) -> None:
        """Take what a line of the log tells."""
        if found := _BUFFER.search(line):
            device, kind, size_mib = found.groups()
            kinds = self.memory.setdefault(device, {"model": 0, "context": 0, "compute": 0})
            kinds[_KINDS.get(kind, "compute")] += round(float(size_mib) * _MIB)
        elif found := _OFFLOADED.search(line):
            self.gpu_layers, self.model_layers = int(found[1]), int(found[2])

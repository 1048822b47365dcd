"""Build hook: the repository's example travels in the wheel, for ``llamatelemetry demo``.

The program has one home, ``examples/`` at the root of the repository, outside this project's
folder. A plain ``force-include`` of it would break the way from an sdist to a wheel, where that
folder is not there but the copy in the sdist is.
"""

# pyright: basic, reportMissingImports=false
# hatchling is there while a wheel is built, not in the environment that checks run in.

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PROGRAM = "examples/openai_chat.py"


class ShipExample(BuildHookInterface):
    """Adds the example to sdist and wheel, unless it is in the project's folder already."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before each build."""
        source = Path(self.root, "..", "..", _PROGRAM).resolve()
        if version == "editable" or Path(self.root, _PROGRAM).is_file():
            return
        if not source.is_file():
            raise FileNotFoundError(f"{source}: build from the repository or from an sdist")
        build_data["force_include"][str(source)] = _PROGRAM

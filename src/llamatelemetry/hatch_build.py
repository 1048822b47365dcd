"""Build hook that adds the repository's example program to the wheel, for `llamatelemetry demo`.

The program is in `examples/` at the root of the repository, outside the directory of this project.
`force-include` alone would fail when a wheel is built from an sdist: there the repository is
missing, and the sdist has a copy.
"""

# pyright: basic, reportMissingImports=false
# hatchling is installed only while a wheel is built.

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PROGRAM = "examples/openai_chat.py"


class ShipExample(BuildHookInterface):
    """Build hook that adds the example program to sdist and wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the example program to a wheel. hatchling calls this before each build."""
        source = Path(self.root, "..", "..", _PROGRAM).resolve()
        if version == "editable" or Path(self.root, _PROGRAM).is_file():
            return
        if not source.is_file():
            raise FileNotFoundError(
                f"Cannot find {source}. Build from the repository or from an sdist"
            )
        build_data["force_include"][str(source)] = _PROGRAM

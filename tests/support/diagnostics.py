"""What `diagnostics` records, by group."""

from __future__ import annotations

from typing import Any

from tests.support.recorder import Recorder

PREFIX = "llamatelemetry."


def found(recorder: Recorder, group: str) -> list[dict[str, Any]]:
    """Return the attributes `llamatelemetry.<group>.*` of each call, by their last part."""
    prefix = f"{PREFIX}{group}."
    calls = [
        {
            name.removeprefix(prefix): value
            for name, value in (span.attributes or {}).items()
            if name.startswith(prefix)
        }
        for span in recorder.calls()
    ]
    recorder.clear_spans()
    return calls

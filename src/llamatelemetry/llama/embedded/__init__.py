"""The embedded llama.cpp server: the server inside the xllamacpp wheel, as a child process.

`EmbeddedServer` starts and stops it. `python -m llamatelemetry.llama.embedded` is the child process.
"""

from __future__ import annotations

from llamatelemetry.llama.embedded.options import EmbeddedOptions
from llamatelemetry.llama.embedded.server import (
    EmbeddedServer,
    EmbeddedServerError,
    find_demo_model,
)

__all__ = ["EmbeddedOptions", "EmbeddedServer", "EmbeddedServerError", "find_demo_model"]

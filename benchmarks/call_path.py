"""The path of one plain chat completion through llamatelemetry's modules.

A real `openai` client calls an in-process mock transport, with the SDK active. A *move* is a
Python call from a function of one of llamatelemetry's modules into a function of another one.
The counts are exact and do not depend on the machine, so a test holds them to a limit.

    python benchmarks/call_path.py [--verbose]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections import Counter
from types import FrameType
from typing import Any

import openai

from _dropping import providers
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

PACKAGES = ("llamatelemetry", "llamatelemetry_instrumentation_openai")
WARM_UP = 3  # the first calls of a process import modules and fill caches
_REPLY = {
    "id": "chatcmpl-1",
    "created": 1,
    "model": "smol",
    "object": "chat.completion",
    "system_fingerprint": "fp",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
    ],
    "usage": {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26},
}

Move = tuple[str, str, str, str]
"""Calling module, calling function, called module, called function."""


class CallPath:
    """Counts the functions that run and the moves between modules, as a profile function."""

    def __init__(self) -> None:
        self.functions: Counter[tuple[str, str]] = Counter()
        self.moves: list[Move] = []

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Handle an event of `sys.setprofile`."""
        # The methods that `dataclass` generates have no file.
        if event != "call" or frame.f_code.co_filename == "<string>":
            return
        module = _module_of(frame)
        if module is None:
            return
        self.functions[module, frame.f_code.co_qualname] += 1
        caller = frame.f_back
        calling = None if caller is None else _module_of(caller)
        if caller is not None and calling is not None and calling != module:
            move = (calling, caller.f_code.co_qualname, module, frame.f_code.co_qualname)
            self.moves.append(move)

    @property
    def modules(self) -> Counter[str]:
        """Function calls by module."""
        return sum((Counter({m: n}) for (m, _), n in self.functions.items()), Counter[str]())


def _module_of(frame: FrameType) -> str | None:
    name = str(frame.f_globals.get("__name__", ""))
    return name if name.partition(".")[0] in PACKAGES else None


# Since version 3, openai uses httpx2. It has the same classes as httpx.
http: Any = importlib.import_module(
    "httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx"
)


def plain_call_path() -> CallPath:
    """Return the path of one plain chat completion call, after `WARM_UP` calls."""

    def respond(_: Any) -> Any:
        return http.Response(200, json=json.loads(json.dumps(_REPLY)))

    http_client = http.Client(transport=http.MockTransport(respond))
    client = openai.OpenAI(base_url="http://llm.test/v1", api_key="none", http_client=http_client)
    sdk, instrumentor, path = providers(), OpenAIInstrumentor(), CallPath()
    instrumentor.instrument(**sdk)
    try:
        for number in range(WARM_UP + 1):
            if number == WARM_UP:
                sys.setprofile(path)
            try:
                client.chat.completions.create(
                    model="smol", messages=[{"role": "user", "content": "Hi"}]
                )
            finally:
                sys.setprofile(None)
    finally:
        instrumentor.uninstrument()
        for provider in sdk.values():
            provider.shutdown()
    return path


def main() -> int:
    """Print the counts, and with `--verbose` the modules and moves."""
    parser = argparse.ArgumentParser(description="Count the modules and moves of a plain call.")
    parser.add_argument("--verbose", action="store_true", help="List modules and moves")
    verbose = parser.parse_args().verbose
    path = plain_call_path()
    print(f"modules {len(path.modules)}, moves {len(path.moves)}")
    if verbose:
        for module, calls in path.modules.most_common():
            print(f"{calls:>4} calls  {module}")
        for calling, caller, called, function in path.moves:
            print(f"{calling}.{caller} -> {called}.{function}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

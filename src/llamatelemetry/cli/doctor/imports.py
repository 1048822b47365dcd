"""Test imports of entry points in a child process.

Metadata does not show that a package fails on import, for example an instrumentor written for
another major version of its library. A child process is used because importing a third-party
module may start threads, patch libraries or take seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence


def import_problems(values: Sequence[str], timeout_s: float) -> dict[str, str]:
    """Return the values `module:attribute` that cannot be imported, each with its error in one line.

    Values that were not tried in time are omitted.
    """
    if not values:
        return {}
    # This process may run under opentelemetry-instrument. The child must not be instrumented.
    quiet = {"OTEL_SDK_DISABLED": "true", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}
    child = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main()", json.dumps(values)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **quiet},
    )
    try:
        output = child.communicate(timeout=timeout_s)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        output = child.communicate()[0]
    problems: dict[str, str] = {}
    for line in output.splitlines():
        with contextlib.suppress(ValueError):  # the kill may truncate the last line
            problems.update(json.loads(line))
    return problems


def main() -> None:
    """Import each value of the JSON list in `argv[1]` and print one JSON line for each failure."""
    report, sys.stdout = sys.stdout, sys.stderr  # a module may print on import
    for value in json.loads(sys.argv[1]):
        module, _, attribute = str(value).partition(":")
        try:
            found = importlib.import_module(module.strip())
            for name in attribute.split("[")[0].strip().split("."):
                found = getattr(found, name)
        except BaseException as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            report.write(json.dumps({value: text[:200]}) + "\n")
            report.flush()

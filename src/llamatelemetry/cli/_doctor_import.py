"""Whether entry points can be imported, tried in a child process.

Metadata cannot tell that a package fails on import (an instrumentor written for another
major version of its library does). A child, because importing somebody else's module may
start threads, patch libraries or take seconds, none of which belongs in this process.
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
    """Of these ``module:attribute`` values, those that fail, with the reason in one line.

    A value that the child did not get to in time is left out: not known is not broken.
    """
    if not values:
        return {}
    # Should this process run under opentelemetry-instrument, the child must not.
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
    return _read(output)


def _read(output: str) -> dict[str, str]:
    problems: dict[str, str] = {}
    for line in output.splitlines():
        with contextlib.suppress(ValueError):  # a last line cut short by the kill
            problems.update(json.loads(line))
    return problems


def main() -> None:
    """Try each value of the JSON list in ``argv[1]``; one JSON line for each that fails."""
    report, sys.stdout = sys.stdout, sys.stderr  # a module may print while it is imported
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

"""A program with greenlets: `green.py LIBRARY WHEN` makes calls in five of them.

WHEN the library replaces threads and locks: `first`, `after init`, `after a stream`, or `elsewhere`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import Counter


def main(library: str, when: str) -> None:
    done: list[int] = []
    if when == "first":
        replace_threads(library)
    if os.environ.get("INIT_IN_CODE"):
        importlib.import_module("llamatelemetry").init()
    if when == "after a stream":
        done.append(importlib.import_module("calls").work())
    if when.startswith("after"):
        replace_threads(library)
    # Not earlier: it imports openai, and programs replace threads before they import anything.
    work = importlib.import_module("calls").work
    if library == "gevent":
        gevent = importlib.import_module("gevent")
        greenlets = [gevent.spawn(work) for _ in range(5)]
        done += [each.get() for each in greenlets]
    else:
        pool = importlib.import_module("eventlet").GreenPool()
        greenlets = [pool.spawn(work) for _ in range(5)]
        done += [each.wait() for each in greenlets]
    sys.stdout.write(json.dumps(Counter(done)))


def replace_threads(library: str) -> None:
    if library == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    else:
        importlib.import_module("eventlet").monkey_patch()


if __name__ == "__main__":
    main(*sys.argv[1:])

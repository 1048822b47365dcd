"""A program with greenlets: `green.py LIBRARY WHEN` makes calls in five of them.

WHEN the library replaces threads and locks: `first`, `after init`, `after a stream`, or `elsewhere`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections import Counter

LIBRARY, WHEN = sys.argv[1:]


def replace_threads() -> None:
    if LIBRARY == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    else:
        importlib.import_module("eventlet").monkey_patch()


if WHEN == "first":
    replace_threads()
if os.environ.get("INIT_IN_CODE"):
    import llamatelemetry

    llamatelemetry.init()
done: list[int] = []
if WHEN == "after a stream":
    from calls import work

    done.append(work())
if WHEN.startswith("after"):
    replace_threads()

from calls import work


def main() -> None:
    if LIBRARY == "gevent":
        gevent = importlib.import_module("gevent")
        greenlets = [gevent.spawn(work) for _ in range(5)]
        done.extend(each.get() for each in greenlets)
    else:
        pool = importlib.import_module("eventlet").GreenPool()
        greenlets = [pool.spawn(work) for _ in range(5)]
        done.extend(each.wait() for each in greenlets)
    sys.stdout.write(json.dumps(Counter(done)))


if __name__ == "__main__":
    main()

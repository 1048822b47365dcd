"""Workers of the standard library: `pools.py KIND START_METHOD` prints the work of each."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from calls import work

if os.environ.get("INIT_IN_CODE"):
    import llamatelemetry

    llamatelemetry.init()


def run(kind: str, method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    if kind == "process":
        results = context.SimpleQueue()
        processes = [context.Process(target=put, args=(results,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [results.get() for _ in processes]
    if kind == "pool":
        # Not `with`, which ends the workers with a signal, also during their work.
        pool = context.Pool(2)
        pids = pool.map(work, range(6), chunksize=1)
        pool.close()
        pool.join()
        return pids
    with ProcessPoolExecutor(2, context) as executor:
        return list(executor.map(work, range(6)))


def put(results) -> None:
    results.put(work())


if __name__ == "__main__":
    before = work()
    if os.environ.get("INIT_IN_CODE"):
        llamatelemetry.flush()
    done = run(*sys.argv[1:])
    sys.stdout.write(json.dumps(Counter([before, *done, work()])))

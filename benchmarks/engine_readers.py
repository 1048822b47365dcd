"""CPU time of reading the engine's own figures from a response, for every format.

The responses of vLLM are recorded ones, those of the other engines follow their sources. Results are
the median time of `read_engine` or `read_engine_headers` per response, in microseconds, and the time
of the search for a proof in its bytes. Run it on an idle machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).parents[1]))

from llamatelemetry.genai import may_prove_engine, provider_from_headers
from llamatelemetry.genai.engines import read_engine, read_engine_headers
from tests.genai.engines.test_readers import FIREWORKS_METRICS, FORMATS, TEI, TGI

REPLIES = Path(__file__).parents[1] / "tests" / "support" / "engine_replies" / "vllm"
LIMIT_US = 5.0
ROUNDS = 31
PER_ROUND = 500


def measure(work: Callable[[], object]) -> float:
    """Return the median CPU time of a call, in microseconds."""
    times: list[float] = []
    for _ in range(ROUNDS):
        started = time.thread_time_ns()
        for _ in range(PER_ROUND):
            work()
        times.append((time.thread_time_ns() - started) / PER_ROUND / 1000)
    return statistics.median(times)


def cases() -> Iterator[tuple[str, float, float | None]]:
    """Measure each format: its name, the time of the reader, and that of the search."""
    for path in sorted(REPLIES.glob("*.json")):
        body = json.loads(path.read_text(encoding="utf-8")).get("body")
        if isinstance(body, dict) and "usage" in body:
            data, usage = json.dumps(body).encode(), body["usage"]
            reading = measure(lambda body=body, usage=usage: read_engine(body, usage))
            yield f"vllm {path.stem}", reading, measure(lambda data=data: may_prove_engine(data))
    for name, (fields, usage, _) in FORMATS.items():
        data = json.dumps({**fields, "usage": usage}).encode()
        reading = measure(lambda fields=fields, usage=usage: read_engine(fields, usage))
        yield name, reading, measure(lambda data=data: may_prove_engine(data))
    fireworks = {f"fireworks-{name}": text for name, text in FIREWORKS_METRICS.items()}
    for name, given in {"tgi": TGI, "tei": TEI, "fireworks": fireworks}.items():
        for kind, headers in (("dict", given), ("httpx2", httpx2.Headers(given))):
            provider = provider_from_headers(headers) or ""
            reading = measure(
                lambda headers=headers, provider=provider: read_engine_headers(headers, provider)
            )
            yield f"{name} headers ({kind})", reading, None


def main() -> int:
    """Print the table. Return 1 if a reader takes longer than the limit."""
    print(f"{'':<40}{'read us':>10}{'search us':>12}")
    slowest = 0.0
    for name, reading, search in cases():
        slowest = max(slowest, reading)
        print(f"{name:<40}{reading:>10.2f}" + (f"{search:>12.2f}" if search is not None else ""))
    print(f"slowest reader: {slowest:.2f} us; limit: {LIMIT_US:g} us")
    return 0 if slowest <= LIMIT_US else 1


if __name__ == "__main__":
    sys.exit(main())

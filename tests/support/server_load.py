"""Load on a server whose metrics are scraped: what was sent, and what was scraped."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx2

from tests.support.recorder import Recorder
from tests.support.waiting import wait_for

_PREFIX = "llamatelemetry.server."


class Load:
    """Clients of a chat server, which count the tokens that its responses report."""

    def __init__(self, origin: str, body: Mapping[str, object], workers: int) -> None:
        self._url = f"{origin}/v1/chat/completions"
        self._body = dict(body)
        self._stop = threading.Event()
        self._counted: list[Counter[str]] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(workers)]

    def _run(self) -> None:
        with httpx2.Client(timeout=60) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(self._url, json=self._body)
                    usage = response.json()["usage"]
                except (httpx2.TransportError, ValueError, KeyError):
                    if self._stop.is_set():
                        return
                    self._stop.wait(0.1)  # The server is down.
                    continue
                counts = {"prompt": usage["prompt_tokens"], "generated": usage["completion_tokens"]}
                self._counted.append(Counter({"requests": 1, **counts}))

    def counted(self) -> Counter[str]:
        """Return the sums over all responses: requests, prompt tokens and generated tokens."""
        return sum(list(self._counted), Counter[str]())

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Send requests until the end of the block, and wait for their responses."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def wait_for_requests(self, number: int) -> None:
        """Wait until the server has answered this many requests."""
        wait_for(lambda: self.counted()["requests"] >= number, timeout_s=120)


def scraped(recorder: Recorder, *names: str) -> Counter[str] | None:
    """Return the scraped totals in the format of `Load.counted`; `None` if the server is down.

    Args:
        recorder: Recorder of the metrics.
        names: Keys of the result.
    """
    metrics = recorder.metrics()

    def total(name: str) -> int:
        metric = metrics.get(f"{_PREFIX}{name}")
        return 0 if metric is None else sum(point.value for point in metric.data.data_points)

    of = {
        "requests": "requests_finished",
        "prompt": "prompt_tokens",
        "generated": "generated_tokens",
    }
    return Counter({name: total(of[name]) for name in names}) if total("up") else None


def last_scrape(recorder: Recorder, stop: Callable[[], object], *names: str) -> Counter[str]:
    """Stop the server, and return the totals of the last scrape before."""
    last: list[Counter[str]] = []
    stopping = threading.Thread(target=stop)
    stopping.start()

    def is_down() -> bool:
        now = scraped(recorder, *names)
        if now is not None:
            last.append(now)
        return now is None

    wait_for(is_down, timeout_s=60)
    stopping.join()
    return last[-1]

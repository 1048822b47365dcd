"""Time limits of exports while the process ends: exporters retry for as long as their timeout."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

# The SDK repeats a failed request for the first time after 0.8 to 1.2 seconds.
_FAILING_LIMIT_S: Final = 0.75
_LIMIT_S: Final = 5.0
# Requests that begin at the end of the limit get at least this long.
_SHORTEST_TIMEOUT_S: Final = 0.2
_POLL_S: Final = 0.05


class Observed(Protocol):
    """An exporter whose exports are observed, and their results."""

    exporter: Any
    succeeded: bool | None
    is_retrying: bool
    is_observable: bool


class ExitLimits:
    """Time limits that begin when the process ends. Before that there are none.

    An exporter that cannot reach its collector repeats a request once. Other requests get five
    seconds together. Python 3.12 starts no thread when the process ends, so each request
    checks the limits itself.
    """

    def __init__(self) -> None:
        self._began: float | None = None

    def begin(self, exporters: Sequence[Observed]) -> None:
        """Start the limits, and end the retries that go on since before."""
        self._began = time.monotonic()
        unobservable = [each for each in exporters if not each.is_observable]
        if unobservable:
            watch = threading.Thread(target=self._watch, args=(unobservable,), daemon=True)
            # Without it, as on Python 3.12, exporters over gRPC retry until their own timeout.
            with contextlib.suppress(RuntimeError):
                watch.start()
        while self._passed_s < _LIMIT_S and any(each.is_retrying for each in exporters):
            for each in exporters:
                if each.is_retrying:
                    self.give_up(each.exporter)
            time.sleep(_POLL_S)

    def give_up(self, exporter: Any) -> None:
        """Shut an exporter whose last request failed down, if its time is over."""
        if self._began is not None and self._passed_s >= _FAILING_LIMIT_S:
            with contextlib.suppress(Exception):
                exporter.shutdown()

    def limited(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of a request, with a `timeout` that ends with the limit."""
        timeout = options.get("timeout")
        if self._began is None or not isinstance(timeout, (int, float)):
            return options
        left_s = max(_SHORTEST_TIMEOUT_S, _LIMIT_S - self._passed_s)
        return {**options, "timeout": min(timeout, left_s)}

    @property
    def _passed_s(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def _watch(self, exporters: Sequence[Observed]) -> None:
        time.sleep(_FAILING_LIMIT_S)
        for each in exporters:
            if not each.succeeded:
                self.give_up(each.exporter)
        time.sleep(_LIMIT_S - _FAILING_LIMIT_S)
        for each in exporters:
            self.give_up(each.exporter)

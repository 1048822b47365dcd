"""The result of one scrape, and the request to a server with its errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from llamatelemetry._terminal import printable
from llamatelemetry.genai.own_requests import open_url
from llamatelemetry.server_metrics.exposition import Group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.server_metrics.engines import Engine
    from llamatelemetry.server_metrics.target import ScrapeTarget

_TIMEOUT_S: Final = 10.0
# vLLM with 64 engines has 4 MB.
_MAX_RESPONSE_BYTES: Final = 8 * 1024 * 1024

# An opaque value in spite of its name: not a Unix time, but different for each server process.
_PROCESS_START_HEADER: Final = "Process-Start-Time-Unix"


class ScrapeError(Exception):
    """The server cannot be scraped.

    Attributes:
        needs_action: Whether the user has to change something.
        status: HTTP status of the response, if there was one.
    """

    def __init__(
        self, reason: str, *, needs_action: bool = False, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.needs_action = needs_action
        self.status = status


@dataclass(frozen=True)
class SlotUsage:
    """Slots of a model. `tokens` is the number in the KV cache of all slots, idle ones included."""

    total: int
    busy: int
    tokens: int
    capacity: int


@dataclass(frozen=True)
class ModelScrape:
    """One scrape of a model, or of one of its replicas.

    `counters` and `gauges` have the keys of the common figures. Those of llama.cpp also have its own
    names, with labels, and without the prefix `llamacpp:`.
    """

    group: Group
    process_start: str | None
    counters: Mapping[str, float]
    gauges: Mapping[str, float]
    slots: SlotUsage | None = None


@dataclass(frozen=True)
class ServerScrape:
    """One scrape of a server: its models that are awake, and the names of those that sleep."""

    awake: tuple[ModelScrape, ...]
    engine: Engine
    asleep: frozenset[str | None] = field(default_factory=frozenset[str | None])


def get(target: ScrapeTarget, path: str, query: str = "") -> tuple[bytes, str | None]:
    """Return the body of a response, and the value that identifies a llama.cpp process.

    Raises:
        ScrapeError: The server did not return the whole body with status 2xx.
    """
    # Imported here, so that processes that never scrape do not import it.
    import urllib.error
    from http.client import HTTPException

    try:
        with open_url(f"{target.base_url}{path}{query}", target.headers, _TIMEOUT_S) as response:
            process_start = response.headers.get(_PROCESS_START_HEADER)
            body = response.read(_MAX_RESPONSE_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise _status_error(path, error.code) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        # The error for an invalid response quotes the response.
        raise ScrapeError(f"{path}: {printable(str(reason), lines=False)}") from None
    if len(body) > _MAX_RESPONSE_BYTES:
        raise ScrapeError(f"{path}: larger than 8 MiB", needs_action=True)
    return body, process_start


_ADVICE: Final = {
    401: "set LLAMA_API_KEY to the server's key",
    404: "metrics may be switched off, or have another path",
    501: "start the server with --metrics",
}


def _status_error(path: str, status: int) -> ScrapeError:
    advice = f": {_ADVICE[status]}" if status in _ADVICE else ""
    # 503 means that the server loads its model; 502 and 504 come from a proxy without a server.
    reason = f"{path}: HTTP {status}{advice}"
    return ScrapeError(reason, needs_action=status < 502, status=status)

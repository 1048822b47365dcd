"""Asking a server what it counts, without waking a model or keeping it from falling asleep.

`GET /props` and `GET /models` touch no model, and tell whether one is loaded and awake; only
then is it asked for more. `GET /metrics` of current builds does not count as use either.
`GET /slots` does: it is asked for only when the counters have moved since, or work is going on.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from llamatelemetry.genai import (
    as_count,
    as_dict,
    as_list,
    as_str,
    get_field,
    is_loopback,
    model_name,
    parse_props,
)
from llamatelemetry.llama._endpoints import read_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .target import Target

_TIMEOUT_S: Final = 10.0
_LARGEST_REPLY: Final = 4 * 1024 * 1024
_MODELS_AT_MOST: Final = 64

# Opaque, whatever its name says: not a Unix time, but new in each life of the process.
_LIFE_HEADER: Final = "Process-Start-Time-Unix"


class NotReadError(Exception):
    """The server has not answered as one that can be read.

    `is_refusal`: it is there, and somebody has to change something.
    """

    def __init__(self, reason: str, *, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.is_refusal = is_refusal


@dataclass(frozen=True)
class SlotUse:
    """What `/slots` says. Tokens are those whose keys and values the slots hold, idle ones too."""

    total: int
    busy: int
    tokens: int
    capacity: int


@dataclass(frozen=True)
class Reading:
    """What one model's server has said. `samples` by name without `llamacpp:`, labels kept."""

    model: str | None
    life: str | None
    samples: Mapping[str, float]
    slots: SlotUse | None


@dataclass(frozen=True)
class Readings:
    """What a server has said of its models that are awake."""

    awake: tuple[Reading, ...]
    asleep: frozenset[str | None]


class ServerReader:
    """Reads one server; remembers between readings what need not be asked again."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._last: dict[str | None, Reading] = {}

    def read(self) -> Readings:
        """Ask for everything once. Raises `NotReadError`, also while a model is being loaded."""
        props = self._get_json("/props")
        if not isinstance(props, dict):
            raise NotReadError("/props is not llama.cpp's", is_refusal=True)
        is_router = parse_props(props).is_router
        found = self._read_router() if is_router else self._read_single(props)
        self._last = {r.model: r for r in found.awake} | {
            name: reading for name, reading in self._last.items() if name in found.asleep
        }
        return found

    def _read_single(self, props: Any) -> Readings:
        name = _name(props)
        if get_field(props, "is_sleeping") is True:
            return Readings((), frozenset({name}))
        return Readings((self._read_model(name),), frozenset())

    def _read_router(self) -> Readings:
        awake: list[Reading] = []
        asleep: set[str | None] = set()
        for model, status in self._routed_models():
            # It may be unloaded at any moment; the others are read all the same.
            with contextlib.suppress(NotReadError):
                if status == "sleeping" or self._is_asleep(model):
                    asleep.add(model_name(model))
                else:
                    awake.append(self._read_model(model_name(model), routed=model))
        return Readings(tuple(awake), frozenset(asleep))

    def _routed_models(self) -> Iterator[tuple[str, str]]:
        """The models that a router has loaded, with their status; the others stay as they are."""
        listed = as_list(get_field(self._get_json("/models"), "data"))
        for entry in listed[:_MODELS_AT_MOST]:
            name, status = (
                as_str(get_field(entry, "id")),
                get_field(get_field(entry, "status"), "value"),
            )
            is_wanted = name is not None and self._target.model in (None, name)
            if name is not None and is_wanted and status in ("loaded", "sleeping"):
                yield name, status

    def _is_asleep(self, model: str) -> bool:
        return get_field(self._get_json("/props", model), "is_sleeping") is True

    def _read_model(self, name: str | None, routed: str | None = None) -> Reading:
        """Read what one model counts; `routed` is the name by which a router knows it."""
        reply = self._get("/metrics", routed)
        samples = {n: v for n, v in read_metrics(reply.text()).items() if math.isfinite(v)}
        before = self._last.get(name)
        if before is not None and before.life == reply.life and _is_idle(before.samples, samples):
            slots = before.slots
        else:
            slots = self._slots(routed)
        return Reading(name, reply.life, samples, slots)

    def _slots(self, routed: str | None) -> SlotUse | None:
        try:
            return read_slots(self._get_json("/slots", routed))
        except NotReadError as error:
            if error.is_refusal:  # --no-slots
                return None
            raise

    def _get_json(self, path: str, model: str | None = None) -> Any:
        try:
            return json.loads(self._get(path, model).body)
        except (ValueError, RecursionError):
            raise NotReadError(f"{path} is not JSON", is_refusal=True) from None

    def _get(self, path: str, model: str | None = None) -> _Reply:
        # A router would load a model only to tell its figures.
        query = "" if model is None else f"?model={quote(model, safe='')}&autoload=false"
        return _get(f"{self._target.base_url}{path}{query}", self._target.headers, path)


def _name(props: Any) -> str | None:
    alias = (as_str(get_field(props, "model_alias")) or "").split(",")[0].strip()
    return model_name(alias) or model_name(get_field(props, "model_path"))


def _is_idle(before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    """Whether nothing has happened between two readings, and nothing is happening."""
    at_work = now.get("requests_processing", 1) or now.get("requests_deferred")
    return not at_work and all(
        now.get(name) == value for name, value in before.items() if "_total" in name
    )


def read_slots(reply: Any) -> SlotUse | None:
    """Read a reply of `GET /slots`; nothing of what the slots work on is looked at.

    A slot's tokens stay in the cache when its request has ended, until another takes their place.
    `n_prompt_tokens` counts all of them, generated ones included.
    """
    slots = [as_dict(slot) for slot in as_list(reply)]
    sizes = [as_count(slot.get("n_ctx")) for slot in slots]
    if not slots or None in sizes:
        return None
    return SlotUse(
        total=len(slots),
        busy=sum(slot.get("is_processing") is True for slot in slots),
        tokens=sum(as_count(slot.get("n_prompt_tokens")) or 0 for slot in slots),
        capacity=sum(size for size in sizes if size is not None),
    )


@dataclass(frozen=True)
class _Reply:
    body: bytes
    life: str | None

    def text(self) -> str:
        return self.body.decode(errors="replace")


def _get(url: str, headers: Mapping[str, str], path: str) -> _Reply:
    # In here, so that processes that are never elected do not import it.
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
            """Not followed: the key in the headers is for this server only."""

    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http by the option
    # A proxy of the environment would look for the server on its own machine.
    direct = [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(url).hostname) else []
    opener = urllib.request.build_opener(NoRedirect, *direct)
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as reply:
            return _Reply(reply.read(_LARGEST_REPLY), reply.headers.get(_LIFE_HEADER))
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(path, error.code) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NotReadError(f"{path}: {reason}") from None


_ADVICE: Final = {
    401: "set LLAMA_API_KEY to the server's key",
    501: "start the server with --metrics",
}


def _refused(path: str, status: int) -> NotReadError:
    advice = f": {_ADVICE[status]}" if status in _ADVICE else ""
    # 503 is a server that loads its model, 502 and 504 a proxy without one.
    return NotReadError(f"{path}: HTTP {status}{advice}", is_refusal=status < 502)

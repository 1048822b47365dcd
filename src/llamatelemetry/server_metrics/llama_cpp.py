"""Scrape a llama.cpp server without waking a sleeping model or keeping a model from falling asleep.

`GET /props` and `GET /models` do not use a model, and report whether it is loaded and awake. Only
then are more requests sent. In current builds `GET /metrics` does not count as use of the model,
either. `GET /slots` does, so it is sent only if counters have changed or requests are running.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from llamatelemetry.genai import (
    as_count,
    as_dict,
    as_list,
    as_str,
    get_field,
    model_name,
    parse_props,
)
from llamatelemetry.genai.wire.prometheus import parse_metrics
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP
from llamatelemetry.server_metrics.engines import LLAMA_CPP
from llamatelemetry.server_metrics.exposition import (
    LARGEST_COUNT,
    Group,
    Values,
    read_figures,
)
from llamatelemetry.server_metrics.scrape import (
    ModelScrape,
    ScrapeError,
    ServerScrape,
    SlotUsage,
    get,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llamatelemetry.server_metrics.target import ScrapeTarget

_MAX_MODELS: Final = 64
_COUNTER: Final = "_total"


class LlamaCppReader:
    """Scraper of one server or router. It reuses the state of the slots while nothing changes."""

    def __init__(self, target: ScrapeTarget) -> None:
        self._target = target
        self._last: dict[str | None, ModelScrape] = {}

    def props(self) -> Mapping[str, Any]:
        """Return the properties of the server, which only llama.cpp has.

        Raises:
            ScrapeError: The server is not a llama.cpp server, or is not ready.
        """
        props = self._get_json("/props")
        if not isinstance(props, dict):
            raise ScrapeError("/props is not llama.cpp's", needs_action=True)
        return as_dict(props)

    def scrape(self, props: Mapping[str, Any]) -> ServerScrape:
        """Scrape the server once.

        Args:
            props: Current properties of the server.

        Raises:
            ScrapeError: The server cannot be scraped.
        """
        is_router = parse_props(props).is_router
        scrape = self._scrape_router() if is_router else self._scrape_single(props)
        self._last = {each.group.model: each for each in scrape.awake} | {
            name: each for name, each in self._last.items() if name in scrape.asleep
        }
        return scrape

    def _scrape_single(self, props: Any) -> ServerScrape:
        name = _name(props)
        if get_field(props, "is_sleeping") is True:
            return ServerScrape((), LLAMA_CPP, frozenset({name}))
        return ServerScrape((self._scrape_model(name),), LLAMA_CPP)

    def _scrape_router(self) -> ServerScrape:
        awake: list[ModelScrape] = []
        asleep: set[str | None] = set()
        for model, status in self._routed_models():
            # The model may be unloaded at any moment. Go on with the others.
            with contextlib.suppress(ScrapeError):
                if status == "sleeping" or self._is_asleep(model):
                    asleep.add(model_name(model))
                else:
                    awake.append(self._scrape_model(model_name(model), routed=model))
        return ServerScrape(tuple(awake), LLAMA_CPP, frozenset(asleep))

    def _routed_models(self) -> Iterator[tuple[str, str]]:
        """Yield the loaded models of a router, with their status. No other model is loaded by this."""
        listed = as_list(get_field(self._get_json("/models"), "data"))
        for entry in listed[:_MAX_MODELS]:
            name = as_str(get_field(entry, "id"))
            status = get_field(get_field(entry, "status"), "value")
            is_wanted = name is not None and self._target.model in (None, name)
            if name is not None and is_wanted and status in ("loaded", "sleeping"):
                yield name, status

    def _is_asleep(self, model: str) -> bool:
        return get_field(self._get_json("/props", model), "is_sleeping") is True

    def _scrape_model(self, name: str | None, routed: str | None = None) -> ModelScrape:
        """Scrape one model. `routed` is its name in requests to a router."""
        body, start = self._get("/metrics", routed)
        text = body.decode(errors="replace")
        # All of them are counts, times or ratios of counts. A server that reports anything else, such
        # as -1 as an unsigned number, does not know the value. Added to a total, it would stay there.
        samples = {
            key: value for key, value in parse_metrics(text).items() if 0 <= value <= LARGEST_COUNT
        }
        common = read_figures(LLAMA_CPP, text).get(Group(PROVIDER_LLAMA_CPP, None)) or Values()
        counters = {key: value for key, value in samples.items() if _COUNTER in key}
        gauges = {key: value for key, value in samples.items() if _COUNTER not in key}
        last = self._last.get(name)
        if last is not None and last.process_start == start and _is_idle(last, counters, gauges):
            slots = last.slots
        else:
            slots = self._scrape_slots(routed)
        counters, gauges = counters | common.counters, gauges | common.gauges
        return ModelScrape(Group(PROVIDER_LLAMA_CPP, name), start, counters, gauges, slots)

    def _scrape_slots(self, routed: str | None) -> SlotUsage | None:
        try:
            return parse_slots(self._get_json("/slots", routed))
        except ScrapeError as error:
            # The server runs with --no-slots.
            if error.needs_action:
                return None
            raise

    def _get_json(self, path: str, model: str | None = None) -> Any:
        try:
            return json.loads(self._get(path, model)[0])
        except (ValueError, RecursionError):
            raise ScrapeError(f"{path} is not JSON", needs_action=True) from None

    def _get(self, path: str, model: str | None = None) -> tuple[bytes, str | None]:
        # Without autoload=false a router loads the model only to report its metrics.
        query = "" if model is None else f"?model={quote(model, safe='')}&autoload=false"
        return get(self._target, path, query)


def _name(props: Any) -> str | None:
    alias = (as_str(get_field(props, "model_alias")) or "").split(",")[0].strip()
    return model_name(alias) or model_name(get_field(props, "model_path"))


def _is_idle(
    before: ModelScrape, counters: Mapping[str, float], gauges: Mapping[str, float]
) -> bool:
    """Return whether no request ran between two scrapes, and none is running."""
    has_requests = gauges.get("requests_processing", 1) or gauges.get("requests_deferred")
    return not has_requests and all(
        counters.get(name) == value for name, value in before.counters.items() if _COUNTER in name
    )


def parse_slots(body: Any) -> SlotUsage | None:
    """Parse the response of `GET /slots`, without the prompts and texts in it.

    The tokens of a slot stay in the KV cache after its request has ended, until another request
    replaces them. `n_prompt_tokens` is their number, generated tokens included.
    """
    slots = [as_dict(slot) for slot in as_list(body)]
    sizes = [as_count(slot.get("n_ctx")) for slot in slots]
    if not slots or None in sizes:
        return None
    return SlotUsage(
        total=len(slots),
        busy=sum(slot.get("is_processing") is True for slot in slots),
        tokens=sum(as_count(slot.get("n_prompt_tokens")) or 0 for slot in slots),
        capacity=sum(size for size in sizes if size is not None),
    )

"""The form of an entry of the catalog, and the figures and texts that several entries share."""

from __future__ import annotations

from typing import Final, NamedTuple

QUEUE: Final = "queue"
PREFILL: Final = "prefill"
DECODE: Final = "decode"
TTFT: Final = "TTFT"
TPOT: Final = "TPOT"
CACHED: Final = "cached tokens"
DRAFTS: Final = "draft tokens"
FIGURES: Final = (QUEUE, PREFILL, DECODE, TTFT, TPOT, CACHED, DRAFTS)
TIMES: Final = (QUEUE, PREFILL, DECODE, TTFT, TPOT)


class Source(NamedTuple):
    """Figures that a response has under one condition.

    Attributes:
        figures: The figures.
        needs: What a response needs to have them: a flag of the server, a field or a header of the
            request. Empty if it always has them.
        on_streams: What a stream needs besides; empty if nothing, `None` if no stream has them.
    """

    figures: tuple[str, ...]
    needs: str = ""
    on_streams: str | None = ""


class Unknown(NamedTuple):
    """Figures that a response never has, and the reason.

    Attributes:
        figures: The figures.
        reason: Why they are unknown.
        only_stream: Whether plain responses have them.
    """

    figures: tuple[str, ...]
    reason: str
    only_stream: bool = False


class Route(NamedTuple):
    """Routes of an engine whose responses have the same figures.

    Attributes:
        paths: Paths of the routes.
        sources: The known figures.
        unknown: All other figures.
        streams: Whether responses can be streamed.
    """

    paths: tuple[str, ...]
    sources: tuple[Source, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    streams: bool = True

    def known_text(self) -> str:
        """Return the known figures of plain responses, and what they need."""
        return (
            "; ".join(_with(source.figures, source.needs) for source in self.sources) or "nothing"
        )

    def stream_text(self) -> str:
        """Return the known figures of streams, compared with those of plain responses."""
        if not self.streams:
            return "no streams"
        additions = {source.on_streams for source in self.sources}
        if len(additions) == 1:
            (addition,) = additions
            return "nothing" if addition is None else _with(("the same",), addition)
        parts = [
            _with(source.figures, *filter(None, (source.needs, source.on_streams)))
            for source in self.sources
            if source.on_streams is not None
        ]
        return "; ".join(parts) or "nothing"

    def unknown_texts(self) -> list[str]:
        """Return the unknown figures, each group with its reason."""
        return [
            f"{', '.join(unknown.figures)}{' on streams' if unknown.only_stream else ''}:"
            f" {unknown.reason}"
            for unknown in self.unknown
        ]


def _with(figures: tuple[str, ...], *needs: str) -> str:
    needed = " and ".join(filter(None, needs))
    return f"{', '.join(figures)}{f' with {needed}' if needed else ''}"


class Engine(NamedTuple):
    """An inference engine, or a service that reports the times of a call.

    Attributes:
        provider: Value of `gen_ai.provider.name`; empty if nothing proves the engine.
        name: Name for people.
        proof: What proves it, in responses and in replies to GET requests.
        routes: Its routes.
        metrics: Path of its Prometheus metrics; `None` if it has none, or none on this port.
        metrics_needs: What makes it available, as the end of "start the server".
    """

    provider: str
    name: str
    proof: str
    routes: tuple[Route, ...]
    metrics: str | None = "/metrics"
    metrics_needs: str = ""


CHAT: Final = ("/v1/chat/completions", "/v1/completions")
USAGE: Final = "`stream_options.include_usage`"
NOT_REPORTED: Final = "not reported"
NO_DRAFTS: Final = Unknown((DRAFTS,), NOT_REPORTED)


def only_cached(reason: str, *, needs: str = "", on_streams: str = USAGE) -> Route:
    """Return the routes of an engine that reports no times, but cached tokens in its usage."""
    source = Source((CACHED,), needs, on_streams)
    return Route(CHAT, (source,), (Unknown((*TIMES, DRAFTS), reason),))

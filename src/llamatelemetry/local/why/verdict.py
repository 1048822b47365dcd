"""The causes of a slow call, and one sentence about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llamatelemetry.local.why.explanation import NORMAL, UNKNOWN, WORK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.local.why.calls import Call
    from llamatelemetry.local.why.explanation import Part, ServerRates

_MIN_CAUSE_MS: Final = 40.0
_MIN_CAUSE_SHARE: Final = 0.12
_MAX_NAMED: Final = 2


def causes_of(parts: Sequence[Part], duration: float) -> list[Part]:
    """Return the parts that are not the work itself and long enough to matter, largest first."""
    least = max(_MIN_CAUSE_MS, _MIN_CAUSE_SHARE * duration)
    found = [part for part in parts if part.name not in WORK and part.excess_ms >= least]
    return sorted(found, key=lambda part: -part.excess_ms)


def top_cause_of(causes: Sequence[Part], call: Call) -> str:
    """Return the name of the largest cause, `normal`, or `unknown`.

    Without the times of the server process, a slower server and shared batches look the same, so
    that `batch` is not named.
    """
    if not causes:
        return NORMAL
    known = [part for part in causes if part.name != "batch" or call.process]
    return UNKNOWN if not known or known[0].name == "unexplained" else known[0].name


def sentence_of(call: Call, parts: Sequence[Part], causes: Sequence[Part]) -> str:
    """Return the duration and the main causes, or the work of a normal call."""
    total = f"{call.duration:,.0f} ms"
    if call.recorded.error is not None:
        total += f" until it failed with {call.recorded.error}"
    if causes:
        named = " and ".join(_phrase(part) for part in causes[:_MAX_NAMED])
        return f"{total}, of which {named}."
    largest = sorted(
        (part for part in parts if part.name in WORK), key=lambda part: part.ms, reverse=True
    )
    if not largest:
        return f"{total}, nothing unusual."
    named = " and ".join(f"{part.ms:,.0f} ms {part.title}" for part in largest)
    return f"{total}: {named}, nothing unusual."


def _phrase(part: Part) -> str:
    text = f"{part.ms:,.0f} ms {part.title}"
    return f"{text} ({part.evidence})" if part.evidence else text


def unknown_of(call: Call, causes: Sequence[Part], rates: ServerRates) -> list[str]:
    """Return what could not be known of a call, each with what would reveal it."""
    found: list[str] = []
    names = {part.name for part in causes}
    is_remote = bool(call.server)
    if not call.has_phases:
        found.append(_no_phases(call))
    elif rates.prefill_ms_per_token is None:
        found.append(
            "The rates of this server are unknown: 6 calls that ran alone are needed, and there "
            f"were {rates.undisturbed}."
        )
    if "unexplained" in names and is_remote and call.sent is None:
        found.append(
            "Network and client times are unknown. Record with `llamatelemetry run` or with "
            "LLAMATELEMETRY_DIAGNOSTICS=true."
        )
    if names & {"unexplained", "batch"} and call.has_phases and is_remote and not call.process:
        found.append(
            "A frozen or overloaded server, and a slow path to it, look alike: the server process "
            "is not visible on this machine."
        )
    if call.has_phases and call.recorded.cached_tokens is None:
        found.append(_no_cached_tokens(call))
    return found


def _no_phases(call: Call) -> str:
    if call.provider == "vllm":
        return (
            "The server reported no phases. Start vLLM with --enable-per-request-metrics, or with "
            "--otlp-traces-endpoint."
        )
    return "The service reports no prefill and decode times, so its own time cannot be divided."


def _no_cached_tokens(call: Call) -> str:
    if call.provider == "vllm":
        return "Cached tokens are unknown. Start vLLM with --enable-prompt-tokens-details."
    return "The server does not report cached tokens."

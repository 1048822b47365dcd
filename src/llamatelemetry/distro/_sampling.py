"""The option `sampling`, brought to a provider; and the samplers of our entry points."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from llamatelemetry.config import SAMPLING_RULES, LlamaTelemetryConfig, effective_config
from llamatelemetry.otel.providers import StableTracerProvider
from llamatelemetry.otel.sampling import Policy, RuleSampler, ratio_sampler
from llamatelemetry.otel.span_processors import put_between
from llamatelemetry.otel.tail_sampling import TailSampler, count_decisions

from ._export_plan import is_explicit

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.sampling import Sampler

_logger = logging.getLogger("llamatelemetry.distro")


def sampler_options(config: LlamaTelemetryConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """The sampler as an argument of the SDK's configuration, or as its variables."""
    sampler = _sampler(config)
    if sampler is not None:
        return {"sampler": sampler}, {}
    if not is_explicit(config, "sampling"):
        return {}, {}
    variables = {"OTEL_TRACES_SAMPLER": config.sampling}
    if is_explicit(config, "sample_rate"):
        variables["OTEL_TRACES_SAMPLER_ARG"] = str(config.sample_rate)
    return {}, variables


def sample_at_end(
    config: LlamaTelemetryConfig, provider: Any, in_front: Sequence[SpanProcessor], *, ours: bool
) -> TailSampler | None:
    """Puts a tail sampler in, if the options or the provider's own sampler ask for one.

    Args:
        config: an effective one.
        provider: of the SDK.
        in_front: processors that see every span.
        ours: whether its sampler could be chosen. On another's `ratio` is decided at the end too.
    """
    count_decisions(False)
    _warn_of_idle_options(config, getattr(provider, "sampler", None))
    rules = _rules(config)
    if rules is None and not ours and is_explicit(config, "sampling"):
        _logger.warning(
            "Not used, because the application has made its own tracer provider: sampling=%s",
            config.sampling,
        )
    if rules is not None and not (rules == {"ratio"} and ours):
        return _hold_back(_policy(config), provider, in_front)
    named = _rule_sampler(provider)
    return None if named is None else _hold_back(named.policy, provider, in_front)


def replace_sampler(config: LlamaTelemetryConfig, provider: Any) -> None:
    """Lets a provider made from a file sample as our options say, if they say anything."""
    sampler = _sampler(config)
    if sampler is None:
        if is_explicit(config, "sampling"):
            _logger.warning(
                "Not used, because OTEL_CONFIG_FILE is set: sampling=%s", config.sampling
            )
        return
    provider.sampler = sampler
    # Each tracer has a reference of its own, those behind our stable ones included.
    for tracer in getattr(provider, "_tracers", {}).values():
        tracer.sampler = sampler


def _rules(config: LlamaTelemetryConfig) -> set[str] | None:
    names = set(config.sampling.split(","))
    return names if names <= set(SAMPLING_RULES) else None


def _sampler(config: LlamaTelemetryConfig) -> Sampler | None:
    rules = _rules(config)
    if rules is None:
        return None
    return ratio_sampler(config.sample_rate) if rules == {"ratio"} else RuleSampler(_policy(config))


def _policy(config: LlamaTelemetryConfig) -> Policy:
    return Policy.named(config.sampling, rate=config.sample_rate, slow_s=config.slow_threshold_s)


def _hold_back(
    policy: Policy, provider: Any, in_front: Sequence[SpanProcessor] = ()
) -> TailSampler | None:
    gate = TailSampler(policy)
    try:
        is_new = put_between(provider, gate, in_front)
    except TypeError as error:
        _logger.warning("Sampling: every trace is kept: %s", error)
        return None
    count_decisions(True)
    return gate if is_new else None


def _rule_sampler(provider: Any) -> RuleSampler | None:
    """The provider's sampler if it is one of ours, also as the root of a parent-based one."""
    sampler = getattr(provider, "sampler", None)
    for each in (sampler, *vars(sampler or object).values()):
        if isinstance(each, RuleSampler):
            return each
    return None


_NEEDS = {"sample_rate": "ratio", "slow_threshold_s": "only_slow"}


def _warn_of_idle_options(config: LlamaTelemetryConfig, sampler: Sampler | None) -> None:
    # What a file or a plugin's name has chosen may use them: ours and the SDK's say what they are.
    in_force = config.sampling + (sampler.get_description().lower() if sampler else "")
    for name, rule in _NEEDS.items():
        if is_explicit(config, name) and rule.removeprefix("only_") not in in_force:
            wanted = (_rules(config) or set()) | {rule}
            _logger.warning(
                "%s is not used with sampling=%s: did you mean sampling=%s?",
                name,
                config.sampling,
                ",".join(each for each in SAMPLING_RULES if each in wanted),
            )


# ---- entry points: OTEL_TRACES_SAMPLER and declarative files name them, also in plain distros


def ratio(argument: str | None = None) -> Sampler:
    """`llamatelemetry_ratio`. The argument, else the option `sample_rate`, is the share kept."""
    config = effective_config()
    return ratio_sampler(float(argument) if argument else config.sample_rate)


def only_errors(argument: str | None = None) -> Sampler:  # noqa: ARG001 - there is nothing to say
    """`llamatelemetry_only_errors`."""
    return RuleSampler(Policy(errors=True), _hold_back_globally)


def only_slow(argument: str | None = None) -> Sampler:
    """`llamatelemetry_only_slow`. The argument, else `slow_threshold_s`, is in seconds."""
    return RuleSampler(Policy(slow_s=_seconds(argument)), _hold_back_globally)


def only_errors_or_slow(argument: str | None = None) -> Sampler:
    """`llamatelemetry_only_errors_or_slow`. The argument is that of `only_slow`."""
    return RuleSampler(Policy(errors=True, slow_s=_seconds(argument)), _hold_back_globally)


def _seconds(argument: str | None) -> float:
    return float(argument) if argument else effective_config().slow_threshold_s


def _hold_back_globally(sampler: RuleSampler) -> None:
    """Finds the provider of a sampler that an entry point made, when its first span begins."""
    provider: Any = trace.get_tracer_provider()
    if isinstance(provider, StableTracerProvider):
        provider = provider.sdk
    if _rule_sampler(provider) is sampler:
        _hold_back(sampler.policy, provider)
        return
    _logger.warning(
        "%s is the sampler of a provider that is not the global one: every trace is kept. Make "
        "the provider global before its first span",
        sampler.get_description(),
    )

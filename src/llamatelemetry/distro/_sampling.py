"""The option `sampling` applied to a provider, and the samplers of the entry points.

The rules and the tail sampler are imported only if an option or a variable names a rule.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from llamatelemetry.config import SAMPLING_RULES, LlamaTelemetryConfig, active_config
from llamatelemetry.distro._export_plan import is_explicit
from llamatelemetry.otel.processor_chains import install_tail_sampler
from llamatelemetry.otel.providers import DelegatingTracerProvider

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.sampling import Sampler

    from llamatelemetry.otel.sampling.rules import Policy, RuleSampler
    from llamatelemetry.otel.sampling.tail_sampler import TailSampler

_logger = logging.getLogger("llamatelemetry.distro")
_RATIO_SAMPLERS = ("traceidratio", "parentbased_traceidratio", "llamatelemetry_ratio")


def sampler_options(config: LlamaTelemetryConfig) -> dict[str, Any]:
    """Return the sampler of the rules as an argument of the SDK's configuration."""
    sampler = _sampler(config)
    return {} if sampler is None else {"sampler": sampler}


def sampler_variables(config: LlamaTelemetryConfig) -> dict[str, str]:
    """Return the variables of another sampler, as far as llamatelemetry's options set them."""
    if _rules(config) is not None:
        return {}
    variables: dict[str, str] = {}
    if is_explicit(config, "sampling"):
        variables["OTEL_TRACES_SAMPLER"] = config.sampling
    if is_explicit(config, "sample_rate") and config.sampling in _RATIO_SAMPLERS:
        variables["OTEL_TRACES_SAMPLER_ARG"] = str(config.sample_rate)
    return variables


def sample_at_end(
    config: LlamaTelemetryConfig,
    provider: Any,
    in_front: Sequence[SpanProcessor],
    *,
    is_created: bool,
) -> TailSampler | None:
    """Install a tail sampler if the options or the provider's own sampler ask for one.

    The processors `in_front` receive every span. If llamatelemetry created neither the provider
    nor its sampler (`is_created`), the tail sampler applies `ratio`, too.
    """
    if (loaded := _loaded("tail_sampler")) is not None:
        loaded.count_decisions(False)
    _warn_of_unused_options(config, getattr(provider, "sampler", None))
    rules = _rules(config)
    if rules is None and not is_created and is_explicit(config, "sampling"):
        _logger.warning(
            "Ignored sampling=%s: the application set its own tracer provider. Pass the sampler to it",
            config.sampling,
        )
    if rules is not None and not (rules == {"ratio"} and is_created):
        return _install(_policy(config), provider, in_front)
    named = _rule_sampler(provider)
    return None if named is None else _install(named.policy, provider, in_front)


def replace_sampler(config: LlamaTelemetryConfig, provider: Any) -> None:
    """Apply the sampling options to a tracer provider that a declarative file created."""
    sampler = _sampler(config)
    if sampler is None:
        if is_explicit(config, "sampling"):
            _logger.warning(
                "Ignored sampling=%s: OTEL_CONFIG_FILE is set. Set the sampler in that file",
                config.sampling,
            )
        return
    # Called before the provider creates any tracer, each of which copies the reference.
    provider.sampler = sampler


def _rules(config: LlamaTelemetryConfig) -> set[str] | None:
    names = set(config.sampling.split(","))
    return names if names <= set(SAMPLING_RULES) else None


def _sampler(config: LlamaTelemetryConfig) -> Sampler | None:
    rules = _rules(config)
    if rules is None:
        return None
    from llamatelemetry.otel.sampling.rules import RuleSampler, ratio_sampler

    return ratio_sampler(config.sample_rate) if rules == {"ratio"} else RuleSampler(_policy(config))


def _policy(config: LlamaTelemetryConfig) -> Policy:
    from llamatelemetry.otel.sampling.rules import Policy

    return Policy.named(config.sampling, rate=config.sample_rate, slow_s=config.slow_threshold_s)


def _install(
    policy: Policy, provider: Any, in_front: Sequence[SpanProcessor] = ()
) -> TailSampler | None:
    from llamatelemetry.otel.sampling.tail_sampler import TailSampler, count_decisions

    tail_sampler = TailSampler(policy)
    try:
        is_new = install_tail_sampler(provider, tail_sampler, in_front)
    except TypeError as error:
        _logger.warning("Tail sampling disabled, all traces are exported: %s", error)
        return None
    count_decisions(True)
    return tail_sampler if is_new else None


def _rule_sampler(provider: Any) -> RuleSampler | None:
    """Return the provider's sampler, or the root of a parent-based one, if it is a `RuleSampler`."""
    rules = _loaded("rules")
    if rules is None:
        return None
    sampler = getattr(provider, "sampler", None)
    for each in (sampler, *vars(sampler or object).values()):
        if isinstance(each, rules.RuleSampler):
            return each
    return None


def _loaded(name: str) -> Any:
    """Return a module of `otel.sampling`, or `None` if nothing has needed it yet."""
    return sys.modules.get(f"llamatelemetry.otel.sampling.{name}")


_NEEDS = {"sample_rate": "ratio", "slow_threshold_s": "only_slow"}


def _warn_of_unused_options(config: LlamaTelemetryConfig, sampler: Sampler | None) -> None:
    # A sampler that a file or a variable named may use them. Its description shows its rules.
    effective = config.sampling + (sampler.get_description().lower() if sampler else "")
    for name, rule in _NEEDS.items():
        if is_explicit(config, name) and rule.removeprefix("only_") not in effective:
            wanted = (_rules(config) or set()) | {rule}
            _logger.warning(
                "Ignored %s: sampling=%s does not use it. Did you mean sampling=%s?",
                name,
                config.sampling,
                ",".join(each for each in SAMPLING_RULES if each in wanted),
            )


# The functions below are entry points. OTEL_TRACES_SAMPLER and declarative files name them, also
# with another distro.
def ratio(argument: str | None = None) -> Sampler:
    """Return the sampler `llamatelemetry_ratio`, for a share of traces from 0 to 1.

    Without an argument, it is the option `sample_rate`.
    """
    from llamatelemetry.otel.sampling.rules import ratio_sampler

    return ratio_sampler(float(argument) if argument else active_config().sample_rate)


def only_errors(argument: str | None = None) -> Sampler:  # noqa: ARG001 - the SDK passes it
    """Return the sampler `llamatelemetry_only_errors`."""
    return _rule_sampler_of(errors=True)


def only_slow(argument: str | None = None) -> Sampler:
    """Return the sampler `llamatelemetry_only_slow`, for a threshold in seconds.

    Without an argument, it is the option `slow_threshold_s`.
    """
    return _rule_sampler_of(slow_s=_seconds(argument))


def only_errors_or_slow(argument: str | None = None) -> Sampler:
    """Return the sampler `llamatelemetry_only_errors_or_slow`; argument as for `only_slow`."""
    return _rule_sampler_of(errors=True, slow_s=_seconds(argument))


def _rule_sampler_of(*, errors: bool = False, slow_s: float | None = None) -> RuleSampler:
    from llamatelemetry.otel.sampling.rules import Policy, RuleSampler

    return RuleSampler(Policy(errors, slow_s), _install_globally)


def _seconds(argument: str | None) -> float:
    return float(argument) if argument else active_config().slow_threshold_s


def _install_globally(sampler: RuleSampler) -> None:
    """Install the tail sampler for a sampler of an entry point, before its first span."""
    provider: Any = trace.get_tracer_provider()
    if isinstance(provider, DelegatingTracerProvider):
        provider = provider.sdk
    if _rule_sampler(provider) is sampler:
        _install(sampler.policy, provider)
        return
    _logger.warning(
        "Tail sampling disabled, all traces are exported: %s is not the sampler of the global "
        "tracer provider. Set its provider as the global one before the first span",
        sampler.get_description(),
    )

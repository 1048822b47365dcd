"""The sampler: whether it drops every span."""

from __future__ import annotations

from collections.abc import Mapping

from llamatelemetry.cli.doctor.check import Check
from llamatelemetry.config import SAMPLING_RULES, LlamaTelemetryConfig

_TITLE = "sampler"
_KEPT = {
    "only_errors": "traces with an error",
    "only_slow": "slow traces",
    "ratio": "{share} of the traces",
}
# Names of the entry points, for OTEL_TRACES_SAMPLER.
_ENTRY_POINTS = {
    "llamatelemetry_ratio": ("ratio",),
    "llamatelemetry_only_errors": ("only_errors",),
    "llamatelemetry_only_slow": ("only_slow",),
    "llamatelemetry_only_errors_or_slow": ("only_errors", "only_slow"),
}


def sampling_checks(
    config: LlamaTelemetryConfig, environ: Mapping[str, str], *, is_llamatelemetry: bool
) -> list[Check]:
    """Check the sampler of llamatelemetry's configurator, or of the SDK's own.

    `environ` has no invalid values any more.
    """
    given = config.option_value("sampling")
    named = environ.get("OTEL_TRACES_SAMPLER", "")
    argument = environ.get("OTEL_TRACES_SAMPLER_ARG", "")
    if is_llamatelemetry and given is not None and given.origin != "OTEL_TRACES_SAMPLER":
        named = config.sampling
        rate = config.option_value("sample_rate")
        if rate is not None and rate.origin != "default":
            argument = str(rate.value)
    rules = _ENTRY_POINTS.get(named, tuple(named.split(",")))
    if is_llamatelemetry and set(rules) <= set(SAMPLING_RULES):
        share = float(argument) if argument and named in _ENTRY_POINTS else config.sample_rate
        return [_rules_check(rules, share, named), *_unused_rate(config, rules)]
    check = _sdk_check(named or "parentbased_always_on", argument)
    return [check, *(_unused_rate(config, (named,)) if is_llamatelemetry else ())]


def _unused_rate(config: LlamaTelemetryConfig, rules: tuple[str, ...]) -> list[Check]:
    given = config.option_value("sample_rate")
    if given is None or given.origin == "default" or any("ratio" in rule for rule in rules):
        return []
    detail = f"{given.value} has no effect, because sampling is {config.sampling}"
    return [Check("warn", "sample_rate", detail, "Set LLAMATELEMETRY_SAMPLING=ratio")]


def _rules_check(rules: tuple[str, ...], share: float, name: str) -> Check:
    if rules == ("ratio",):
        return _share_check(name, share, is_parent_based=True)
    kept = " and ".join(_KEPT[rule].format(share=f"{share:.3g}") for rule in rules)
    return Check("info", _TITLE, f"{name}: only {kept}")


def _sdk_check(name: str, argument: str) -> Check:
    base = name.removeprefix("parentbased_")
    is_parent_based = base != name
    if base == "always_on":
        return Check("ok", _TITLE, f"{name}: all traces")
    if base in ("always_off", "traceidratio"):
        share = 0.0 if base == "always_off" else float(argument or 1)
        return _share_check(name, share, is_parent_based=is_parent_based)
    return Check("info", _TITLE, f"{name}, of another package, not tested")


def _share_check(name: str, share: float, *, is_parent_based: bool) -> Check:
    if share:
        return Check("ok" if share == 1 else "info", _TITLE, f"{name}: {share:.3g} of the traces")
    remedy = "Unset LLAMATELEMETRY_SAMPLING and OTEL_TRACES_SAMPLER, or raise the rate above 0"
    if is_parent_based:
        detail = f"{name}: no spans, except below a sampled span of the caller"
        return Check("warn", _TITLE, detail, remedy, effect="unsampled")
    return Check("fail", _TITLE, f"{name}: no spans at all", remedy, effect="unsampled")

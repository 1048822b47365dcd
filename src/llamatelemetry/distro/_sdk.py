"""Runs the SDK's own configuration, with its providers put behind our stable ones.

The SDK's configuration ends in setting OpenTelemetry's globals, which works once. Those calls
are intercepted while it runs; all else is its own: samplers, id generators, resource
detectors, OpAMP hooks, declarative files.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from opentelemetry.util._importlib_metadata import (
    entry_points,  # pyright: ignore[reportUnknownVariableType] - it has no types
)

from llamatelemetry.otel.providers import SIGNALS

from ._export_plan import ExportPlan

# Who sets the globals, under which name, for which signal. A name that is gone in a later
# version is passed over: the SDK then sets its provider as the global one itself.
_SETTERS = (
    ("opentelemetry.sdk._configuration", "set_tracer_provider", "traces"),
    ("opentelemetry.sdk._configuration", "set_meter_provider", "metrics"),
    ("opentelemetry.sdk._configuration", "set_logger_provider", "logs"),
)
_DECLARATIVE_SETTERS = (
    ("opentelemetry.trace", "set_tracer_provider", "traces"),
    ("opentelemetry.metrics", "set_meter_provider", "metrics"),
    ("opentelemetry.configuration._logger_provider", "set_logger_provider", "logs"),
)


@contextmanager
def providers_made(*, declarative: bool) -> Generator[dict[str, Any]]:
    """Within it, what the SDK sets as global providers goes behind the stable ones.

    Gives the providers by signal, without those of a signal for which the application has made
    a provider: that one stays, and the SDK's is shut down. So are all when an exception comes.
    """
    made: dict[str, Any] = {}
    unwanted: list[Any] = []
    try:
        with ExitStack() as stack:
            for module, name, signal in _SETTERS + (_DECLARATIVE_SETTERS if declarative else ()):
                stack.enter_context(_replaced(module, name, _taker(signal, made, unwanted)))
            yield made
    except BaseException:
        for signal, provider in made.items():
            SIGNALS[signal].stable.detach()
            unwanted.append(provider)
        raise
    finally:
        for provider in unwanted:
            provider.shutdown()


def _taker(signal: str, made: dict[str, Any], unwanted: list[Any]) -> Callable[[Any], None]:
    def take(provider: Any) -> None:
        if SIGNALS[signal].foreign is not None or signal in made:
            unwanted.append(provider)
            return
        made[signal] = provider
        SIGNALS[signal].attach(provider)

    return take


@contextmanager
def _replaced(module_name: str, name: str, value: object) -> Generator[None]:
    module = importlib.import_module(module_name)
    before = getattr(module, name, None)
    if before is None:
        yield
        return
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def environment(values: Mapping[str, str]) -> Generator[None]:
    """Sets variables for what the SDK takes from nowhere else, and puts the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def exporter_options(plan: ExportPlan, without: frozenset[str]) -> dict[str, Any]:
    """The plan as arguments of the SDK's configuration.

    Args:
        plan: where each signal goes.
        without: signals that are not to be exported.
    """
    parameters = {
        "traces": "trace_exporter_names",
        "metrics": "metric_exporter_names",
        "logs": "log_exporter_names",
    }
    options: dict[str, Any] = {name: [] for name in parameters.values()}
    arguments: dict[type, Mapping[str, Any]] = {}
    for signal, export in plan.signals.items():
        if signal in without:
            continue
        options[parameters[signal]] = list(export.exporters)
        for name, given in export.exporters.items():
            if given:
                arguments.update(_by_class(signal, name, given))
    return {**options, "exporter_args_map": arguments}


def _by_class(signal: str, name: str, given: Mapping[str, Any]) -> dict[type, Mapping[str, Any]]:
    # The SDK loads the same class by the same name, and reports what is not found or fails.
    found = entry_points(group=f"opentelemetry_{signal}_exporter", name=name)
    return {entry_point.load(): given for entry_point in list(found)[:1]}


def remove_logging_handlers(provider: object) -> None:
    """Takes off the root logger what the SDK put there for this logger provider."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, "_logger_provider", None) is provider:
            root.removeHandler(handler)

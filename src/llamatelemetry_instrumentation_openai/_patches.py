"""Patch points of the `openai` client, for all clients of the process or for one client.

Every resource of every client goes through `OpenAI.request` or `AsyncOpenAI.request`: chat,
Responses, embeddings, images, audio, `parse`, the stream helpers, raw responses and Azure. Two
more hooks run inside `request`: one for each attempt, and one with the response headers.

The wrappers are in `_wrappers`, which is loaded together with `openai`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Protocol

from llamatelemetry import __version__
from llamatelemetry.config import LlamaTelemetryConfig, active_config, sdk_disabled
from llamatelemetry.genai import (
    Instrumenter,
    PatchPoint,
    PatchSwitch,
    internal_errors,
    make_patch_link,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

_PACKAGE: Final = __name__.partition(".")[0]
_STATE: Final = "_llamatelemetry_wrapping"
_COPY_METHODS: Final = ("copy", "with_options")


class InstrumentorState(Protocol):
    """The part of `OpenAIInstrumentor` and of `_ClientPatches` that the wrappers use."""

    instrumenter: Instrumenter  # Read at each call, because instrumenting again replaces it.


def patch_points(state: InstrumentorState) -> tuple[PatchPoint, ...]:
    """Return the patch table of the plugin."""

    def wrapper(name: str) -> Callable[[], Callable[..., Any]]:
        def load() -> Callable[..., Any]:
            from llamatelemetry_instrumentation_openai._wrappers import Wrappers

            return getattr(Wrappers(state), name)

        return load

    return tuple(
        PatchPoint("openai._client", path, wrapper(name), optional="._" in path, deferred=True)
        for path, name in (
            ("OpenAI.request", "request"),
            ("AsyncOpenAI.request", "request_async"),
            ("OpenAI._prepare_request", "prepare_attempt"),
            ("AsyncOpenAI._prepare_request", "prepare_attempt"),
            ("OpenAI._process_response", "process_response"),
            ("AsyncOpenAI._process_response", "process_response"),
        )
    )


def realtime_patch_points(state: InstrumentorState) -> tuple[PatchPoint, ...]:
    """Return the patch points of the Realtime API, which no other resource uses."""

    def wrapper(name: str) -> Callable[[], Callable[..., Any]]:
        def load() -> Callable[..., Any]:
            from llamatelemetry_instrumentation_openai._realtime import RealtimeWrappers

            return getattr(RealtimeWrappers(state), name)

        return load

    return tuple(
        PatchPoint(f"openai.resources.{module}", path, wrapper(name), optional=True, deferred=True)
        for module in ("realtime.realtime", "beta.realtime.realtime")
        for path, name in (
            ("Realtime.connect", "connect"),
            ("AsyncRealtime.connect", "connect"),
            ("RealtimeConnectionManager.__enter__", "enter"),
            ("RealtimeConnectionManager.enter", "enter"),
            ("AsyncRealtimeConnectionManager.__aenter__", "enter_async"),
            ("AsyncRealtimeConnectionManager.enter", "enter_async"),
            ("RealtimeConnectionManager.__exit__", "exit"),
            ("AsyncRealtimeConnectionManager.__aexit__", "exit"),
            ("RealtimeConnection.send", "send"),
            ("AsyncRealtimeConnection.send", "send"),
            ("RealtimeConnection.parse_event", "parse_event"),
            ("AsyncRealtimeConnection.parse_event", "parse_event"),
        )
    )


def instrument_client(
    client: Any,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    config: LlamaTelemetryConfig | None = None,
) -> None:
    """Record the calls of one client and of all copies that are made of it later.

    Does nothing if the client is instrumented already. If the plugin is active as well, each call
    is recorded once, with the options of this client.

    Args:
        client: An `OpenAI` or `AsyncOpenAI`, or an instance of a subclass.
        tracer_provider: Tracer provider; the global one if `None`.
        meter_provider: Meter provider; the global one if `None`.
        config: Options; read from the environment if `None`.

    Raises:
        TypeError: The client is of another type.
    """
    _class_name(client)
    if _STATE in _members(client) or sdk_disabled():
        return
    instrumenter = Instrumenter(
        _PACKAGE,
        __version__,
        config=active_config(config),
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )
    _ClientPatches(client, instrumenter).apply()


def uninstrument_client(client: Any) -> None:
    """Remove the instrumentation of one client. Existing copies of it stay instrumented."""
    patches = _members(client).get(_STATE)
    if isinstance(patches, _ClientPatches):
        patches.revert()


def _members(client: Any) -> dict[str, Any]:
    return client.__dict__


def _class_name(client: Any) -> str:
    for base in type(client).__mro__:
        # The library sets the module of its exported classes to "openai".
        if base.__module__.startswith("openai") and base.__name__ in {"OpenAI", "AsyncOpenAI"}:
            return base.__name__
    raise TypeError(f"client must be an openai.OpenAI or openai.AsyncOpenAI, got {client!r}")


class _ClientPatches:
    """The wrappers of the patch table, stored in one client instead of its class."""

    def __init__(self, client: Any, instrumenter: Instrumenter) -> None:
        self._client = client
        self.instrumenter = instrumenter
        self._links: dict[str, Any] = {}
        self._switch = PatchSwitch(is_on=False)

    def apply(self) -> None:
        """Put the wrappers into the client."""
        class_name = _class_name(self._client)
        self._switch.is_on = True
        _members(self._client)[_STATE] = self
        for point in patch_points(self):
            owner, _, name = point.path.partition(".")
            if owner == class_name and (not point.optional or hasattr(self._client, name)):
                self._wrap(name, point.make_wrapper())
        for name in _COPY_METHODS:
            self._wrap(name, self._copy)

    def revert(self) -> None:
        """Remove the wrappers. One that other code has wrapped again stays, disabled."""
        self._switch.is_on = False
        present = _members(self._client)
        present.pop(_STATE, None)
        for name, made in self._links.items():
            if present.get(name) is made:
                del present[name]

    def _wrap(self, name: str, wrapper: Callable[..., Any]) -> None:
        present = _members(self._client)
        # An attribute of the instance is another package's wrapper, which has to be kept.
        original = present[name] if name in present else _below_plugin(self._client, name)
        # `with_options` is another name of `copy`: as in the library, both are one function.
        made = self._links.get(getattr(original, "__name__", name))
        if made is None:
            made = make_patch_link(original, wrapper, self._switch, self._client, name)
        self._links[name] = present[name] = made

    def _copy(
        self,
        wrapped: Callable[..., Any],
        _client: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Wrap `copy`, because a copy does not get the wrappers of this client."""
        made = wrapped(*args, **kwargs)
        try:
            if _STATE not in _members(made):
                _ClientPatches(made, self.instrumenter).apply()
        except Exception as error:
            internal_errors.log_once("instrumenting a copy of an openai client", error)
        return made


def _below_plugin(client: Any, name: str) -> Any:
    """Return a method without the plugin's own wrapper, which would record each attempt twice."""
    kind: type[object] = client.__class__
    function: Any = inspect.getattr_static(kind, name)
    while _is_from_plugin(function):
        function = function.__wrapped__
    return function.__get__(client, kind)


def _is_from_plugin(function: Any) -> bool:
    wrapper: Any = getattr(function, "_self_wrapper", None)
    return str(getattr(wrapper, "__module__", "")).startswith(_PACKAGE)

"""Patch points of the `openai` client, for all clients of the process or for single ones.

Every resource of every client goes through `OpenAI.request` or `AsyncOpenAI.request`: chat,
Responses, embeddings, images, audio, `parse`, the stream helpers, raw responses and Azure. Two
more hooks run inside `request`: one for each attempt, and one with the response headers.

The classes are patched even if only one client is to be recorded; the others pass through. Methods
in the instance would be bound to it, so `copy.copy` of a client would send its requests to the
server of the first one, with the key of the first one.

The wrappers are in `_wrappers`, which is loaded together with `openai`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from llamatelemetry import __version__
from llamatelemetry.config import LlamaTelemetryConfig, active_config, sdk_disabled
from llamatelemetry.genai import ForkSafeLock, PatchPoint, PatchTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llamatelemetry.genai import Instrumenter

_PACKAGE: Final = __name__.partition(".")[0]
CLIENT_KEY: Final = "_llamatelemetry_instrumentation"
"""Key of the `ClientInstrumentation` in the `__dict__` of a client."""


class ClientInstrumentation:
    """Marks a client whose calls are recorded with an instrumenter of its own.

    `copy.copy` of a client copies the mark. A pickle of a client, which some subclasses allow, does
    not contain it, so a process without llamatelemetry can load the pickle.
    """

    __slots__ = ("__weakref__", "instrumenter")

    def __init__(self, instrumenter: Instrumenter) -> None:
        self.instrumenter = instrumenter

    def __copy__(self) -> ClientInstrumentation:
        return self

    def __deepcopy__(self, _memo: Any) -> ClientInstrumentation:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[()]]:
        return str, ()


class ClientPatches:
    """The patch table, which is applied while the plugin is active or a client is marked.

    Attributes:
        instrumenter: Instrumenter of clients without a mark: that of the plugin while it is active.
            It is created together with the wrappers.
    """

    def __init__(self) -> None:
        self.instrumenter: Instrumenter | None = None
        self._make_instrumenter: Callable[[], Instrumenter] | None = None
        self._has_wrappers = False
        self._marks: WeakSet[ClientInstrumentation] = WeakSet()
        self._table = PatchTable((*patch_points(self), *realtime_patch_points(self)))
        self._lock = ForkSafeLock()

    def instrument_all(self, make_instrumenter: Callable[[], Instrumenter]) -> None:
        """Record the calls of all clients. Called again, it replaces the instrumenter."""
        with self._lock.held():
            self._make_instrumenter = make_instrumenter
            if self._has_wrappers:
                self.instrumenter = make_instrumenter()
            self._table.apply()

    def uninstrument_all(self) -> None:
        """Record only the calls of clients that are marked themselves."""
        with self._lock.held():
            self._make_instrumenter = self.instrumenter = None
            self._revert_if_unused()

    def on_wrapper(self) -> None:
        """Create the instrumenter for the first wrapper."""
        with self._lock.held():
            self._has_wrappers = True
            if self.instrumenter is None and self._make_instrumenter is not None:
                self.instrumenter = self._make_instrumenter()

    def instrument(self, client: Any, instrumenter: Instrumenter) -> None:
        """Mark one client."""
        with self._lock.held():
            mark = client.__dict__[CLIENT_KEY] = ClientInstrumentation(instrumenter)
            self._marks.add(mark)
            self._table.apply()

    def uninstrument(self, client: Any) -> None:
        """Remove the mark of one client."""
        with self._lock.held():
            client.__dict__.pop(CLIENT_KEY, None)
            self._revert_if_unused()

    def _revert_if_unused(self) -> None:
        if self._make_instrumenter is None and not self._marks:
            self._table.revert()


def patch_points(patches: ClientPatches) -> tuple[PatchPoint, ...]:
    """Return the patch table of the plugin."""

    def wrapper(name: str) -> Callable[[], Callable[..., Any]]:
        def load() -> Callable[..., Any]:
            from llamatelemetry_instrumentation_openai._wrappers import Wrappers

            patches.on_wrapper()
            return getattr(Wrappers(patches), name)

        return load

    return tuple(
        PatchPoint(module, path, wrapper(name), optional=is_optional, deferred=True)
        for module, path, name, is_optional in (
            ("openai._client", "OpenAI.request", "request", False),
            ("openai._client", "AsyncOpenAI.request", "request_async", False),
            ("openai._client", "OpenAI._prepare_request", "prepare_attempt", True),
            ("openai._client", "AsyncOpenAI._prepare_request", "prepare_attempt", True),
            ("openai._client", "OpenAI._process_response", "process_response", True),
            ("openai._client", "AsyncOpenAI._process_response", "process_response", True),
            # `with_options` is another name of `copy`. The clients of Azure call the method of
            # their base class, those of Bedrock do not.
            ("openai._client", "OpenAI.copy", "copy", False),
            ("openai._client", "AsyncOpenAI.copy", "copy", False),
            ("openai.lib.bedrock", "BedrockOpenAI.copy", "copy", True),
            ("openai.lib.bedrock", "AsyncBedrockOpenAI.copy", "copy", True),
        )
    )


def realtime_patch_points(patches: ClientPatches) -> tuple[PatchPoint, ...]:
    """Return the patch points of the Realtime API, which no other resource uses."""

    def wrapper(name: str) -> Callable[[], Callable[..., Any]]:
        def load() -> Callable[..., Any]:
            from llamatelemetry_instrumentation_openai._realtime import RealtimeWrappers

            patches.on_wrapper()
            return getattr(RealtimeWrappers(patches), name)

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


patches: Final = ClientPatches()


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
    _require_client(client)
    if client.__dict__.get(CLIENT_KEY) or sdk_disabled():
        return
    from llamatelemetry.genai import Instrumenter

    instrumenter = Instrumenter(
        _PACKAGE,
        __version__,
        config=active_config(config),
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )
    patches.instrument(client, instrumenter)


def uninstrument_client(client: Any) -> None:
    """Remove the instrumentation of one client. Existing copies of it stay instrumented."""
    if CLIENT_KEY in client.__dict__:
        patches.uninstrument(client)


def _require_client(client: Any) -> None:
    for base in type(client).__mro__:
        # The library sets the module of its exported classes to "openai".
        if base.__module__.startswith("openai") and base.__name__ in {"OpenAI", "AsyncOpenAI"}:
            return
    raise TypeError(f"client must be an openai.OpenAI or openai.AsyncOpenAI, got {client!r}")

"""Instrumenting one client of the openai library, and no other.

The wrappers are those of the plugin's patch table; here they stand in the instance instead of
the class, where ``copy`` and ``with_options`` would lose them: these are followed.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry import __version__
from llamatelemetry.config import LlamaTelemetryConfig, effective_config, sdk_disabled
from llamatelemetry.genai import Instrumenter, guard
from llamatelemetry.genai.patching import Switch, link
from llamatelemetry_instrumentation_openai._patches import patch_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

_PACKAGE: Final = __name__.partition(".")[0]
_STATE: Final = "_llamatelemetry_wrapping"
_COPIES: Final = ("copy", "with_options")


def instrument_client(
    client: Any,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    config: LlamaTelemetryConfig | None = None,
) -> None:
    """Record the calls of one client, and of the copies that are made of it from now on.

    Doing it again changes nothing. With the plugin active as well, each call is recorded once,
    as this client was told to.

    Args:
        client: an ``OpenAI`` or ``AsyncOpenAI``, or one of a class made of them.
        tracer_provider: OpenTelemetry's global one when not given.
        meter_provider: likewise.
        config: options; read from the environment when not given.

    Raises:
        TypeError: it is no such client.
    """
    _class_name(client)
    if _STATE in _members(client) or sdk_disabled():
        return
    instrumenter = Instrumenter(
        _PACKAGE,
        __version__,
        config=effective_config(config),
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )
    _Wrapping(client, instrumenter).apply()


def uninstrument_client(client: Any) -> None:
    """Undo `instrument_client` for this client; copies that were made of it stay as they are."""
    wrapping = _members(client).get(_STATE)
    if isinstance(wrapping, _Wrapping):
        wrapping.revert()


def _members(client: Any) -> dict[str, Any]:
    return client.__dict__


def _class_name(client: Any) -> str:
    for base in type(client).__mro__:
        # The library says "openai" of what it exports, wherever that is defined.
        if base.__module__.startswith("openai") and base.__name__ in {"OpenAI", "AsyncOpenAI"}:
            return base.__name__
    raise TypeError(f"an openai.OpenAI or openai.AsyncOpenAI is wanted, not {client!r}")


class _Wrapping:
    """The wrappers in one client."""

    def __init__(self, client: Any, instrumenter: Instrumenter) -> None:
        self._client = client
        self.instrumenter = instrumenter
        self._links: dict[str, Any] = {}
        self._switch = Switch(is_on=False)

    def apply(self) -> None:
        """Put the wrappers in."""
        class_name = _class_name(self._client)
        self._switch.is_on = True
        _members(self._client)[_STATE] = self
        for point in patch_points(self):
            owner, _, name = point.path.partition(".")
            if owner == class_name and (not point.optional or hasattr(self._client, name)):
                self._put(name, point.make_wrapper())
        for name in _COPIES:
            self._put(name, self._follow)

    def revert(self) -> None:
        """Take the wrappers out; one that somebody has wrapped stays there, switched off."""
        self._switch.is_on = False
        present = _members(self._client)
        present.pop(_STATE, None)
        for name, link in self._links.items():
            if present.get(name) is link:
                del present[name]

    def _put(self, name: str, wrapper: Callable[..., Any]) -> None:
        present = _members(self._client)
        # What stands in the instance already is somebody else's wrapper, and is kept.
        original = present[name] if name in present else _without_plugin(self._client, name)
        # `with_options` is another name of `copy`: as in the library, both are one function.
        made = self._links.get(getattr(original, "__name__", name))
        if made is None:
            made = link(original, wrapper, self._switch, self._client, name)
        self._links[name] = present[name] = made

    def _follow(
        self,
        wrapped: Callable[..., Any],
        _client: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Wrap ``copy``."""
        made = wrapped(*args, **kwargs)
        try:
            if _STATE not in _members(made):
                _Wrapping(made, self.instrumenter).apply()
        except Exception as error:
            guard.report("following a copy of an openai client", error)
        return made


def _without_plugin(client: Any, name: str) -> Any:
    """Give a method as it is below the plugin's own wrapper, which would note each attempt again."""
    kind: type[object] = client.__class__
    function: Any = inspect.getattr_static(kind, name)
    while _is_ours(function):
        function = function.__wrapped__
    return function.__get__(client, kind)


def _is_ours(function: Any) -> bool:
    wrapper: Any = getattr(function, "_self_wrapper", None)
    return str(getattr(wrapper, "__module__", "")).startswith(_PACKAGE)

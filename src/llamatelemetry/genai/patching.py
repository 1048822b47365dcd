"""Patch points as data: one table per plugin drives both applying and reverting.

Patching is deferred: a module that is not imported yet is patched when it is, so that
instrumenting a library never imports it. Reverting restores the library exactly when our
wrapper is the outermost; where somebody has wrapped ours, our link stays in the chain,
switched off, and theirs goes on working.
"""

from __future__ import annotations

import threading
from functools import wraps
from inspect import iscoroutinefunction
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import wrapt

from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType

    Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], Mapping[str, Any]], Any]


class PatchPoint(NamedTuple):
    """One function to wrap.

    ``module`` is where its owner is defined, ``path`` the dotted way to it: ``OpenAI.request``.
    ``wrapper`` takes ``(wrapped, instance, args, kwargs)``; or it is ``deferred``, takes
    nothing, and gives the wrapper, whose code is then imported no earlier than the library. An
    ``optional`` point may be missing in some versions of the library without anything being wrong.
    A ``method`` is wrapped in a function rather than in wrapt's object if it is a plain one:
    that takes a tenth of the time, and is worth it where a call passes several.
    """

    module: str
    path: str
    wrapper: Wrapper | Callable[[], Wrapper]
    optional: bool = False
    deferred: bool = False
    method: bool = False

    def make_wrapper(self) -> Wrapper:
        """Give what takes ``(wrapped, instance, args, kwargs)``."""
        return cast("Wrapper", self.wrapper() if self.deferred else self.wrapper)  # type: ignore[call-arg]


class PatchTable:
    """The patch points of one plugin, applied and reverted together."""

    def __init__(self, points: Iterable[PatchPoint]) -> None:
        self._patches = [_Patch(point) for point in points]
        self._lock = threading.RLock()

    def apply(self) -> None:
        """Wrap every point now, or as soon as its module is imported. Applying twice does nothing."""
        with self._lock:
            for patch in self._patches:
                patch.apply()

    def revert(self) -> None:
        """Undo `apply`: also for modules that are still to be imported."""
        with self._lock:
            for patch in self._patches:
                patch.revert()


class _Patch:
    def __init__(self, point: PatchPoint) -> None:
        self._point = point
        self._switch = _Switch(is_on=False)  # of the newest link
        self._hooked = False
        self._module: ModuleType | None = None
        self._link: Any = None  # our wrapper, in the library while applied
        self._inherited = False

    def apply(self) -> None:
        if self._switch.is_on:
            return
        self._switch.is_on = True
        if not self._hooked:
            # Fires at once if the module is there. wrapt cannot take a hook back: it stays.
            self._hooked = True
            wrapt.register_post_import_hook(self._on_import, self._point.module)
        elif self._module is not None:
            self._install(self._module)

    def _on_import(self, module: ModuleType) -> None:
        self._module = module
        if self._switch.is_on:
            self._install(module)

    def _install(self, module: ModuleType) -> None:
        point = self._point
        try:
            owner, name, original = wrapt.resolve_path(module, point.path)
            if _is_linked(self._link, original):
                return  # left in the chain by an earlier revert, and switched on again
            if self._link is None or self._link.__wrapped__ is not original:
                self._link = self._make_link(original)
            self._inherited = name not in vars(owner)
            setattr(owner, name, self._link)
        except Exception as error:
            # An exception here would fail the application's own import.
            if not (point.optional and isinstance(error, AttributeError)):
                internal_errors.log_once(f"patching {point.module}.{point.path}", error)

    def _make_link(self, original: Any) -> Any:
        switch = _Switch(is_on=True)
        wrapper = self._point.make_wrapper()
        if self._point.method and type(original) is FunctionType:
            link = _method(original, wrapper, switch)
        else:
            link = wrapt.FunctionWrapper(original, wrapper, enabled=lambda: switch.is_on)
        # An older link may be hidden in somebody's closure: only the newest is ever on.
        self._switch.is_on = False
        self._switch = switch
        return link

    def revert(self) -> None:
        self._switch.is_on = False
        if self._link is None or self._module is None:
            return
        try:
            owner, name, outermost = wrapt.resolve_path(self._module, self._point.path)
        except AttributeError:
            return  # somebody has removed the function, and our link with it
        if outermost is not self._link:
            return
        if self._inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, self._link.__wrapped__)


class _Switch:
    """Whether a link does anything: one that cannot be taken out is switched off."""

    __slots__ = ("is_on",)

    def __init__(self, *, is_on: bool) -> None:
        self.is_on = is_on


def _method(original: Any, wrapper: Wrapper, switch: _Switch) -> Any:
    """Wrap a method that is a plain function in another one."""

    @wraps(original)
    def link(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not switch.is_on:
            return original(self, *args, **kwargs)
        return wrapper(MethodType(original, self), self, args, kwargs)

    @wraps(original)
    async def async_link(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not switch.is_on:
            return await original(self, *args, **kwargs)
        return await wrapper(MethodType(original, self), self, args, kwargs)

    made: Any = async_link if iscoroutinefunction(original) else link
    made._self_wrapper = wrapper  # where wrapt has it, for those who look who has wrapped
    return made


def _is_linked(link: Any, outermost: Any) -> bool:
    """Say whether ``link`` is somewhere in the chain of wrappers that starts at ``outermost``."""
    seen = 0
    while link is not None and outermost is not None and seen < 100:
        if outermost is link:
            return True
        outermost = getattr(outermost, "__wrapped__", None)
        seen += 1
    return False

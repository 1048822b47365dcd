"""Patch points: the functions of a library that a plugin wraps, listed as data.

One `PatchTable` per plugin applies and reverts all of them. A module that is not imported yet is
patched on import, so that instrumenting a library never imports it.

Reverting restores the original function if the plugin's wrapper is still the outermost one. If
another package has wrapped it again, it stays in the chain, disabled, and the other wrapper keeps
working.
"""

from __future__ import annotations

import copy
from functools import wraps
from inspect import isasyncgenfunction, isclass, iscoroutinefunction, isgeneratorfunction
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import wrapt

from llamatelemetry.genai import internal_errors
from llamatelemetry.otel.process.forking import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], Mapping[str, Any]], Any]


class PatchPoint(NamedTuple):
    """One function to wrap.

    Attributes:
        module: Module that defines the class or function, such as `openai._client`.
        path: Dotted path inside the module, such as `OpenAI.request`.
        wrapper: Function that is called with `(wrapped, instance, args, kwargs)`. The wrapper of
            a coroutine function may itself be a coroutine function or return an awaitable.
        optional: Whether the function may be missing in supported versions of the library.
        deferred: Whether `wrapper` takes no arguments and returns the wrapper. The wrapper's
            code can then be imported together with the library instead of at start-up.
    """

    module: str
    path: str
    wrapper: Wrapper | Callable[[], Wrapper]
    optional: bool = False
    deferred: bool = False

    def make_wrapper(self) -> Wrapper:
        """Return the function that takes `(wrapped, instance, args, kwargs)`."""
        return cast("Wrapper", self.wrapper() if self.deferred else self.wrapper)  # type: ignore[call-arg]


class PatchTable:
    """The patch points of one plugin, applied and reverted together."""

    def __init__(self, points: Iterable[PatchPoint]) -> None:
        self._patches = [_Patch(point) for point in points]
        self._lock = ForkSafeLock()

    def apply(self) -> None:
        """Wrap every point now, or when its module is imported. Does nothing if applied already."""
        with self._lock.held():
            for patch in self._patches:
                patch.apply()

    def revert(self) -> None:
        """Restore every original function, also for modules that are not imported yet."""
        with self._lock.held():
            for patch in self._patches:
                patch.revert()


class LibraryPatches:
    """The patch tables of several libraries. Each is created when its library is imported.

    A program that does not import a library then does not load the code that instruments it.

    Args:
        libraries: Top-level module of each library, and a function that returns its patch points.
    """

    def __init__(self, libraries: Mapping[str, Callable[[], Iterable[PatchPoint]]]) -> None:
        self._libraries = dict(libraries)
        self._tables: dict[str, PatchTable] = {}
        self._is_on = False
        self._hooked = False
        self._lock = ForkSafeLock()

    def apply(self) -> None:
        """Patch the libraries that are imported already now, and each other one on import."""
        with self._lock.held():
            self._is_on = True
            if self._hooked:
                for table in self._tables.values():
                    table.apply()
                return
            # wrapt cannot remove an import hook. It runs now if the module is imported already.
            self._hooked = True
        for name in self._libraries:
            wrapt.register_post_import_hook(self._on_import, name)

    def revert(self) -> None:
        """Restore every original function, also for libraries that are not imported yet."""
        with self._lock.held():
            self._is_on = False
            for table in self._tables.values():
                table.revert()

    def _on_import(self, module: ModuleType) -> None:
        name = module.__name__
        try:
            # Without the lock, because this imports modules, which has locks of its own.
            table = self._tables.get(name) or PatchTable(self._libraries[name]())
            with self._lock.held():
                table = self._tables.setdefault(name, table)
                if self._is_on:
                    table.apply()
        except Exception as error:
            # An exception here would fail the application's own import.
            internal_errors.log_once(f"patching {name}", error)


class PatchSwitch:
    """Whether a link is enabled. A link that cannot be removed is disabled instead."""

    __slots__ = ("is_on",)

    def __init__(self, *, is_on: bool) -> None:
        self.is_on = is_on

    def __reduce__(self) -> Any:
        # cloudpickle copies a class of `__main__` with its methods. Nothing is patched in the
        # process that loads the copy, and llamatelemetry may be missing there.
        return SimpleNamespace, (), {"is_on": False}


class _Patch:
    def __init__(self, point: PatchPoint) -> None:
        self._point = point
        self._switch = PatchSwitch(is_on=False)  # of the newest link
        self._hooked = False
        self._module: ModuleType | None = None
        self._link: Any = None
        self._inherited = False
        self._aliases: list[str] = []

    def apply(self) -> None:
        self._switch.is_on = True
        if not self._hooked:
            # Runs at once if the module is imported already. wrapt cannot remove an import hook.
            self._hooked = True
            wrapt.register_post_import_hook(self._on_import, self._point.module)
        elif self._module is not None:
            # Also if it is applied already: another package may have removed the wrapper.
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
                return  # An earlier revert left it in the chain; the switch has enabled it again.
            if self._link is None or self._link.__wrapped__ is not original:
                switch = PatchSwitch(is_on=True)
                self._link = make_patch_link(original, point.make_wrapper(), switch, owner, name)
                # An older link may be hidden in a closure: only the newest one is ever enabled.
                self._switch.is_on = False
                self._switch = switch
            self._inherited = name not in vars(owner)
            # Other names of the same function stay the same object, as pickle requires.
            self._aliases = [
                each
                for each, value in vars(owner).items()
                if value is original and isclass(owner) and not self._inherited
            ]
            for each in {name, *self._aliases}:
                setattr(owner, each, self._link)
        except Exception as error:
            # An exception here would fail the application's own import.
            if not (point.optional and isinstance(error, AttributeError)):
                internal_errors.log_once(f"patching {point.module}.{point.path}", error)

    def revert(self) -> None:
        self._switch.is_on = False
        if self._link is None or self._module is None:
            return
        try:
            owner, name, outermost = wrapt.resolve_path(self._module, self._point.path)
        except AttributeError:
            return  # The function was removed from the library, and the link with it.
        if outermost is not self._link:
            return
        if self._inherited:
            delattr(owner, name)
            return
        for each in {name, *self._aliases}:
            if vars(owner).get(each) is self._link:
                setattr(owner, each, self._link.__wrapped__)


def make_patch_link(
    original: Any, wrapper: Wrapper, switch: PatchSwitch, owner: Any, name: str
) -> Any:
    """Return a callable that passes calls of `original` to `wrapper`.

    To callers it looks like the original: it has the same name and signature, and it can be
    pickled and copied where the original can. A pickle refers to the library alone, so a process
    without llamatelemetry can load it.

    Args:
        original: Function, method or descriptor to wrap. A bound method stays one.
        wrapper: Function that is called with `(wrapped, instance, args, kwargs)`.
        switch: Enables the wrapper.
        owner: Module, class or instance that the result is stored in.
        name: Attribute of `owner` that the result is stored in.
    """
    if type(original) is MethodType and _is_plain(original.__func__):
        return MethodType(_function_link(original.__func__, wrapper, switch), original.__self__)
    if not (isclass(owner) and _is_plain(original)):
        return _Link(original, wrapper, switch, owner, name)
    if name in vars(owner):
        return _function_link(original, wrapper, switch)
    function = _function_link(original, wrapper, switch, _inherited_binder(original, owner, name))
    # pickle finds functions by these names, and under the base class it is the original.
    function.__module__ = owner.__module__
    function.__qualname__ = f"{owner.__qualname__}.{name}"
    return function


def _is_plain(function: Any) -> bool:
    """Return whether a function or coroutine function in Python can represent the function."""
    is_generator = isgeneratorfunction(function) or isasyncgenfunction(function)
    return type(function) is FunctionType and not is_generator


def _inherited_binder(original: Any, owner: Any, name: str) -> Callable[[Any], Any]:
    """Return the function that binds the method that a class inherits.

    It looks the method up at each call: the base class may be patched later, and in a subclass
    another base class may come first.
    """

    def bind(instance: Any) -> Any:
        if isinstance(instance, owner):
            return getattr(super(owner, instance), name)  # type: ignore[reportUnknownArgumentType]
        return MethodType(original, instance)

    return bind


def _function_link(
    original: Any,
    wrapper: Wrapper,
    switch: PatchSwitch,
    bind: Callable[[Any], Any] | None = None,
) -> Any:
    """Wrap a method in a function, which takes a tenth of the time of wrapt's object.

    `bind` returns the method of an instance to call, if that is not always the original.
    """

    @wraps(original)
    def function(self: Any, *args: Any, **kwargs: Any) -> Any:
        method = MethodType(original, self) if bind is None else bind(self)
        if not switch.is_on:
            return method(*args, **kwargs)
        return wrapper(method, self, args, kwargs)

    @wraps(original)
    async def coroutine_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        method = MethodType(original, self) if bind is None else bind(self)
        if not switch.is_on:
            return await method(*args, **kwargs)
        return await wrapper(method, self, args, kwargs)

    made: Any = coroutine_function if iscoroutinefunction(original) else function
    made._self_wrapper = wrapper  # The name that wrapt uses; it identifies instrumentations.
    return made


class _BoundLink(wrapt.BoundFunctionWrapper[Any, Any]):
    def __reduce_ex__(self, protocol: Any) -> Any:
        # A static method has no `__self__`, nor has a method that was taken from its class.
        instance = getattr(self.__wrapped__, "__self__", None)
        if instance is None:
            return self._self_parent.__reduce_ex__(protocol)
        return getattr, (instance, self.__name__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        bound = self.__wrapped__
        if not isinstance(bound, MethodType):
            return self
        return getattr(copy.deepcopy(bound.__self__, memo), self.__name__)


class _Link(wrapt.FunctionWrapper[Any, Any]):
    """A wrapper for functions that a plain function cannot represent.

    These are class methods, static methods, generator functions, functions of extension modules,
    functions of a module and other packages' wrappers. wrapt's proxies cannot be pickled or
    copied by themselves.
    """

    __bound_function_wrapper__ = _BoundLink

    def __init__(
        self, original: Any, wrapper: Wrapper, switch: PatchSwitch, owner: Any, name: str
    ) -> None:
        super().__init__(original, wrapper, enabled=lambda: switch.is_on)
        self._self_container = owner
        self._self_attribute = name

    def __reduce_ex__(self, _protocol: Any) -> Any:
        owner, name = self._self_container, self._self_attribute
        return name if isinstance(owner, ModuleType) else (getattr, (owner, name))

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        owner = self._self_container
        if isclass(owner) or isinstance(owner, ModuleType):
            return self
        return getattr(copy.deepcopy(owner, memo), self._self_attribute)


def _is_linked(link: Any, outermost: Any) -> bool:
    """Return whether `link` is in the chain of wrappers that starts at `outermost`."""
    seen = 0
    while link is not None and outermost is not None and seen < 100:
        if outermost is link:
            return True
        outermost = getattr(outermost, "__wrapped__", None)
        seen += 1
    return False

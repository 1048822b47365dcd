"""Patches of the `generate` methods that model classes define themselves.

More than fifty classes of transformers override `GenerationMixin.generate` or have a `generate`
without that base class, and so do models with code of their own. A list of them would be outdated
with each release, so a hook on the creation of model classes patches each class that appears, and
`apply` those that exist already.
"""

from __future__ import annotations

import sys
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from llamatelemetry.genai import PatchSwitch, internal_errors, make_patch_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MODEL_MODULE: Final = "transformers.modeling_utils"
# SpeechT5 has both. They do not call each other.
_METHODS: Final = ("generate", "generate_speech")


class OwnGeneratePatches:
    """Patches the methods of all model classes, and restores them.

    Args:
        make_wrapper: Returns the wrapper of the methods. It is called when the first one is found.
    """

    def __init__(self, make_wrapper: Callable[[], Callable[..., Any]]) -> None:
        self._make_wrapper = make_wrapper
        self._wrapper: Any = None
        self._switch = PatchSwitch(is_on=False)
        self._patched: WeakSet[type] = WeakSet()

    def apply(self) -> None:
        """Patch the classes that exist, and from now on those that are created."""
        self._switch.is_on = True
        base = getattr(sys.modules.get(MODEL_MODULE), "PreTrainedModel", None)
        if base is None:
            return  # No model class exists yet.
        for kind in list(_subclasses(base)):
            self._patch(kind)

    def revert(self) -> None:
        """Restore the methods. A method that another package has wrapped again is disabled."""
        self._switch.is_on = False
        for kind in list(self._patched):
            for name in _METHODS:
                method: Any = vars(kind).get(name)
                if self._is_ours(method):
                    setattr(kind, name, method.__wrapped__)
        self._patched.clear()

    def on_class_created(
        self,
        wrapped: Callable[..., Any],
        kind: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Wrap `PreTrainedModel.__init_subclass__`."""
        result = wrapped(*args, **kwargs)
        # Before transformers 4.53, the method is that of `object`, which only `wrapped` is bound to.
        kind = getattr(wrapped, "__self__", None) if kind is None else kind
        if self._switch.is_on and isinstance(kind, type):
            self._patch(kind)
        return result

    def _patch(self, kind: type) -> None:
        try:
            for owner in kind.__mro__:
                if owner not in self._patched and not _is_generation_mixin(owner):
                    self._patch_class(owner)
        except Exception as error:
            internal_errors.log_once("patching the generate method of a model class", error)

    def _patch_class(self, owner: type) -> None:
        for name in _METHODS:
            method: Any = vars(owner).get(name)
            if not _can_be_wrapped(method) or self._is_in_chain(method):
                continue
            if self._wrapper is None:
                self._wrapper = self._make_wrapper()
            link = make_patch_link(method, self._wrapper, self._switch, owner, name)
            setattr(owner, name, link)
            self._patched.add(owner)

    def _is_ours(self, method: Any) -> bool:
        return self._wrapper is not None and (
            getattr(method, "_self_wrapper", None) is self._wrapper
        )

    def _is_in_chain(self, method: Any) -> bool:
        seen = 0
        while method is not None and seen < 100:
            if self._is_ours(method):
                return True
            method = getattr(method, "__wrapped__", None)
            seen += 1
        return False


def _is_generation_mixin(owner: type) -> bool:
    """Return whether a class is the one whose `generate` has a patch point."""
    return owner.__name__ == "GenerationMixin" and owner.__module__.startswith("transformers.")


def is_model(instance: Any) -> bool:
    """Return whether an instance is a model. Other classes may share a mixin with a model class."""
    base = getattr(sys.modules.get(MODEL_MODULE), "PreTrainedModel", ())
    return isinstance(instance, base) or any(map(_is_generation_mixin, type(instance).__mro__))


def _can_be_wrapped(method: Any) -> bool:
    """Return whether a method generates when it is called, and not when its result is iterated."""
    return (
        callable(method)
        and not isinstance(method, (classmethod, staticmethod, type))
        and not isgeneratorfunction(method)
        and not isasyncgenfunction(method)
        and not iscoroutinefunction(method)
    )


def _subclasses(kind: type) -> Iterator[type]:
    for each in type.__subclasses__(kind):
        yield each
        yield from _subclasses(each)

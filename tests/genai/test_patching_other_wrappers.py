"""Patch tables for functions that another package wraps too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import wrapt


def other_wrapper(other_calls: list[str]) -> Callable[..., Any]:
    """Return the wrapper of another instrumentation that uses wrapt."""

    def wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        other_calls.append("other")
        return wrapped(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("path", ["Client.method", "Client.inherited_method", "function"])
def test_revert_disables_wrapper_inside_other_wrapper(library, path):
    module, other_calls = library.load(), []
    table = library.table(path)
    table.apply()
    wrapt.wrap_function_wrapper(module, path, other_wrapper(other_calls))
    outermost = wrapt.resolve_path(module, path)[2]
    assert (library.call(path), len(other_calls)) == (1, 1)
    table.revert()
    assert (library.call(path), len(other_calls)) == (0, 2)
    assert wrapt.resolve_path(module, path)[2] is outermost


@pytest.mark.parametrize("path", ["Client.method", "Client.inherited_method", "function"])
def test_reapply_inside_other_wrapper_wraps_once(library, path):
    module, other_calls = library.load(), []
    table = library.table(path)
    for _ in range(3):
        table.apply()
        if not other_calls:
            wrapt.wrap_function_wrapper(module, path, other_wrapper(other_calls))
        other_calls.clear()
        assert (library.call(path), len(other_calls)) == (1, 1)
        table.revert()


def test_reapply_inside_functools_wrapper_wraps_once(library):
    client = library.load().Client
    table = library.table("Client.method")
    table.apply()
    plugin_wrapper = client.method

    @functools.wraps(plugin_wrapper)
    def other_method(self: Any, x: int) -> Any:
        return plugin_wrapper(self, x)

    client.method = other_method
    table.revert()
    assert library.call("Client.method") == 0
    table.apply()
    assert library.call("Client.method") == 1


def test_reapply_inside_wrapper_without_wrapped_attribute_wraps_once(library):
    client = library.load().Client
    table = library.table("Client.method")
    table.apply()
    plugin_wrapper = client.method

    def other_method(self: Any, x: int) -> Any:  # Without `__wrapped__`.
        return plugin_wrapper(self, x)

    client.method = other_method
    table.revert()
    assert library.call("Client.method") == 0
    table.apply()
    assert library.call("Client.method") == 1
    table.revert()
    assert library.call("Client.method") == 0


def test_revert_restores_function_after_other_wrapper_is_removed(library):
    before = library.namespaces()
    module, other_calls = library.load(), []
    table = library.table("Client.method")
    table.apply()
    plugin_wrapper = vars(module.Client)["method"]
    wrapt.wrap_function_wrapper(module, "Client.method", other_wrapper(other_calls))
    table.revert()
    module.Client.method = (
        plugin_wrapper  # The other package restores the function that it wrapped.
    )
    assert library.call("Client.method") == 0
    table.apply()
    assert library.call("Client.method") == 1
    table.revert()
    assert library.namespaces() == before


def test_wrapper_is_enabled_when_other_wrapper_is_removed_after_reapply(library):
    before = library.namespaces()
    module, other_calls = library.load(), []
    table = library.table("Client.method")
    table.apply()
    plugin_wrapper = vars(module.Client)["method"]
    wrapt.wrap_function_wrapper(module, "Client.method", other_wrapper(other_calls))
    table.revert()
    table.apply()
    module.Client.method = (
        plugin_wrapper  # The other package restores the function that it wrapped.
    )
    assert library.call("Client.method") == 1
    table.revert()
    assert library.namespaces() == before


def test_revert_keeps_other_wrapper_applied_before(library):
    module, other_calls = library.load(), []
    wrapt.wrap_function_wrapper(module, "Client.method", other_wrapper(other_calls))
    before = library.namespaces()
    table = library.table("Client.method")
    table.apply()
    table.revert()
    assert library.namespaces() == before
    assert library.call("Client.method") == 0
    assert other_calls == ["other"]

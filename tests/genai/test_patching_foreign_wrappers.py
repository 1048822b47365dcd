"""Patch tables that share a function with another package's wrapper."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import wrapt


def other_wrapper(seen: list[str]) -> Callable[..., Any]:
    """Return the wrapper of another instrumentation that uses wrapt."""

    def wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append("other")
        return wrapped(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("path", ["Client.own", "Client.inherited", "function"])
def test_revert_disables_link_below_foreign_wrapper(library, path):
    module, seen = library.load(), []
    table = library.table(path)
    table.apply()
    wrapt.wrap_function_wrapper(module, path, other_wrapper(seen))
    outermost = wrapt.resolve_path(module, path)[2]
    assert (library.call(path), len(seen)) == (1, 1)
    table.revert()
    assert (library.call(path), len(seen)) == (0, 2)
    assert wrapt.resolve_path(module, path)[2] is outermost


@pytest.mark.parametrize("path", ["Client.own", "Client.inherited", "function"])
def test_reapply_below_foreign_wrapper_wraps_once(library, path):
    module, seen = library.load(), []
    table = library.table(path)
    for _ in range(3):
        table.apply()
        if not seen:
            wrapt.wrap_function_wrapper(module, path, other_wrapper(seen))
        seen.clear()
        assert (library.call(path), len(seen)) == (1, 1)
        table.revert()


def test_reapply_below_functools_wrapper_wraps_once(library):
    client = library.load().Client
    table = library.table("Client.own")
    table.apply()
    plugin_link = client.own

    @functools.wraps(plugin_link)
    def other_own(self: Any, x: int) -> Any:
        return plugin_link(self, x)

    client.own = other_own
    table.revert()
    assert library.call("Client.own") == 0
    table.apply()
    assert library.call("Client.own") == 1


def test_reapply_below_hiding_wrapper_wraps_once(library):
    client = library.load().Client
    table = library.table("Client.own")
    table.apply()
    plugin_link = client.own

    def other_own(self: Any, x: int) -> Any:  # It lacks `__wrapped__`.
        return plugin_link(self, x)

    client.own = other_own
    table.revert()
    assert library.call("Client.own") == 0
    table.apply()
    assert library.call("Client.own") == 1
    table.revert()
    assert library.call("Client.own") == 0


def test_revert_restores_function_after_foreign_wrapper_is_removed(library):
    before = library.dicts()
    module, seen = library.load(), []
    table = library.table("Client.own")
    table.apply()
    plugin_link = vars(module.Client)["own"]
    wrapt.wrap_function_wrapper(module, "Client.own", other_wrapper(seen))
    table.revert()
    module.Client.own = plugin_link  # The other package restores what it had found.
    assert library.call("Client.own") == 0
    table.apply()
    assert library.call("Client.own") == 1
    table.revert()
    assert library.dicts() == before


def test_link_is_enabled_when_foreign_wrapper_is_removed_after_reapply(library):
    before = library.dicts()
    module, seen = library.load(), []
    table = library.table("Client.own")
    table.apply()
    plugin_link = vars(module.Client)["own"]
    wrapt.wrap_function_wrapper(module, "Client.own", other_wrapper(seen))
    table.revert()
    table.apply()
    module.Client.own = plugin_link  # The other package restores what it had found.
    assert library.call("Client.own") == 1
    table.revert()
    assert library.dicts() == before


def test_revert_keeps_foreign_wrapper_below(library):
    module, seen = library.load(), []
    wrapt.wrap_function_wrapper(module, "Client.own", other_wrapper(seen))
    before = library.dicts()
    table = library.table("Client.own")
    table.apply()
    table.revert()
    assert library.dicts() == before
    assert library.call("Client.own") == 0
    assert seen == ["other"]

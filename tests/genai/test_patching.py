"""Patch tables on real modules: applying, reverting and missing functions."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import operator
import pickle
import sys
import threading
import types
from typing import Any
from unittest import mock

import pytest
import wrapt

from llamatelemetry.genai import PatchPoint, PatchTable, internal_errors
from tests.genai.library import POINTS, SOURCE


@pytest.mark.parametrize("path", POINTS)
def test_apply_wraps_point_of_loaded_module(library, path):
    library.load()
    library.table(path).apply()
    assert library.call(path) == 1


@pytest.mark.parametrize("path", POINTS)
def test_apply_wraps_point_when_module_is_imported_later(library, path):
    library.table(path).apply()
    assert library.name not in sys.modules
    assert library.call(path) == 1


def test_wrapper_gets_instance_and_arguments(library):
    library.table(
        "Client.method", "Client.class_method", "Client.static_method", "function"
    ).apply()
    module = library.load()
    client = module.Client()
    client.method(x=1)
    module.Client.class_method(2)
    module.Client.static_method(3)
    module.function(4)
    assert library.wrapper_calls == [
        ("Client.method", client, (), {"x": 1}),
        ("Client.class_method", module.Client, (2,), {}),
        ("Client.static_method", None, (3,), {}),
        ("function", None, (4,), {}),
    ]


def test_deferred_wrapper_is_created_when_module_is_imported(library):
    created = []

    def create_wrapper() -> Any:
        created.append(1)
        return library.point("function").wrapper

    table = PatchTable([PatchPoint(library.name, "function", create_wrapper, deferred=True)])
    table.apply()
    assert created == []
    assert library.call("function") == 1
    assert library.call("function") == 1
    assert created == [1]
    table.revert()


@pytest.mark.parametrize("path", POINTS)
def test_apply_wraps_once_when_called_twice(library, path):
    table = library.table(path)
    table.apply()
    table.apply()
    library.load()
    table.apply()
    assert library.call(path) == 1


def test_apply_wraps_again_when_other_package_removed_wrapper(library):
    table = library.table("Client.inherited_method")
    table.apply()
    del library.load().Client.inherited_method
    assert library.call("Client.inherited_method") == 0
    table.apply()
    assert library.call("Client.inherited_method") == 1


def test_other_name_of_patched_method_stays_same_function(library):
    module = library.load()
    client = module.Client
    client.other_name = original = client.method
    table = library.table("Client.method")
    table.apply()
    assert client.other_name is client.method
    assert pickle.loads(pickle.dumps(client.other_name)) is client.method
    client().other_name(1)
    assert len(library.wrapper_calls) == 1
    table.revert()
    assert client.other_name is client.method is original


def test_two_tables_wrap_same_point(library):
    first, second = library.table("Client.method"), library.table("Client.method")
    first.apply()
    second.apply()
    assert library.call("Client.method") == 2
    first.revert()  # Not the outermost wrapper.
    assert library.call("Client.method") == 1
    second.revert()
    assert library.call("Client.method") == 0


def test_apply_covers_subclasses_and_existing_instances(library):
    module = library.load()
    early = module.Client()
    library.table("Client.method").apply()

    class Special(module.Client):
        pass

    early.method(1)
    Special().method(1)
    assert len(library.wrapper_calls) == 2
    assert library.wrapper_calls[0][1] is early


def test_apply_does_not_patch_base_of_inherited_method(library):
    library.table("Client.inherited_method").apply()
    module = library.load()
    module.Base().inherited_method(1)
    assert library.wrapper_calls == []
    assert "inherited_method" in vars(module.Client)


def test_inherited_method_that_is_patched_in_base_class_later_is_called(library):
    module = library.load()
    library.table("Client.inherited_method").apply()
    with mock.patch.object(module.Base, "inherited_method", return_value="mocked"):
        assert module.Client().inherited_method(1) == "mocked"
    assert module.Client().inherited_method(1) == ("inherited_method", 1)
    assert len(library.wrapper_calls) == 2


def test_inherited_method_of_other_base_class_comes_first(library):
    module = library.load()

    class Mixin(module.Base):
        def inherited_method(self, x: int) -> Any:
            return ("mixin", super().inherited_method(x))

    class Special(module.Client, Mixin):
        pass

    expected = Special().inherited_method(1)
    library.table("Client.inherited_method").apply()
    assert Special().inherited_method(1) == expected == ("mixin", ("inherited_method", 1))
    assert len(library.wrapper_calls) == 1


def test_inherited_method_is_called_with_object_of_other_class(library):
    module = library.load()
    library.table("Client.inherited_method").apply()
    assert module.Client.inherited_method(object(), 1) == ("inherited_method", 1)


def test_coroutine_function_keeps_kind_name_and_signature(library):
    before = inspect.signature(library.load().Client.async_method)
    library.table("Client.async_method", "Client.method").apply()
    client = library.load().Client
    assert inspect.iscoroutinefunction(client.async_method)
    assert inspect.iscoroutinefunction(client().async_method)
    assert not inspect.iscoroutinefunction(client.method)
    assert client.method.__name__ == "method"
    assert client.method.__qualname__ == "Client.method"
    assert inspect.signature(client.async_method) == before


@pytest.mark.parametrize("path", POINTS)
def test_patched_function_can_be_pickled_and_copied(library, path):
    library.table(path).apply()
    function = operator.attrgetter(path)(library.load())
    assert copy.copy(function) == function
    assert copy.deepcopy(function) == function
    data = pickle.dumps(function)
    assert b"llamatelemetry" not in data
    assert pickle.loads(data) == function


@pytest.mark.parametrize("name", ["method", "inherited_method", "async_method", "generator_method"])
def test_patched_bound_method_can_be_pickled_and_copied(library, name):
    library.table(f"Client.{name}").apply()
    client = library.load().Client()
    method = getattr(client, name)
    assert copy.copy(method) == method
    for other in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert other.__self__ is not client
        assert type(other.__self__) is type(client)
        assert other.__name__ == name
    assert isinstance(method, types.MethodType)


def test_generator_function_keeps_kind(library):
    library.table("Client.generator_method").apply()
    client = library.load().Client
    assert inspect.isgeneratorfunction(client.generator_method)
    assert inspect.isgenerator(client().generator_method(1))


def test_revert_restores_every_object_and_removes_inherited_wrappers(library):
    before = library.namespaces()
    table = library.table(*POINTS)
    table.apply()
    assert library.namespaces() != before
    table.revert()
    after = library.namespaces()
    assert after == before
    for owner, members in before.items():
        assert list(after[owner]) == list(members)  # In the same order.
        assert all(after[owner][name] is value for name, value in members.items())


@pytest.mark.parametrize("path", POINTS)
def test_apply_and_revert_can_be_repeated(library, path):
    before = library.namespaces()
    table = library.table(path)
    for _ in range(3):
        table.apply()
        assert library.call(path) == 1
        table.revert()
        assert library.call(path) == 0
        assert library.namespaces() == before


def test_revert_before_import_cancels_patching(library):
    table = library.table(*POINTS)
    table.apply()
    table.revert()
    assert all(library.call(path) == 0 for path in POINTS)
    assert "inherited_method" not in vars(library.load().Client)


def test_apply_after_revert_wraps_point_on_import(library):
    table = library.table("Client.method")
    table.apply()
    table.revert()
    table.apply()
    assert library.call("Client.method") == 1


def test_apply_wraps_module_imported_after_revert(library):
    table = library.table("Client.method")
    table.apply()
    table.revert()
    assert library.call("Client.method") == 0
    table.apply()
    assert library.call("Client.method") == 1


def test_revert_does_nothing_when_not_applied(library):
    table = library.table(*POINTS)
    table.revert()
    before = library.namespaces()
    table.revert()
    assert library.namespaces() == before


def test_kept_bound_method_follows_revert_and_apply(library):
    table = library.table("Client.method")
    table.apply()
    method = library.load().Client().method
    table.revert()
    assert method(1) == ("method", 1)
    assert library.wrapper_calls == []
    table.apply()
    assert method(1) == ("method", 1)
    assert len(library.wrapper_calls) == 1


@pytest.fixture
def log(caplog):
    internal_errors.set_strict(False)
    caplog.set_level(logging.DEBUG, logger="llamatelemetry")
    return caplog


@pytest.mark.parametrize("path", ["Client.missing", "Missing.method", "missing"])
def test_missing_point_logs_one_warning_and_import_succeeds(library, log, path):
    library.table(path, "Client.method").apply()
    assert library.call("Client.method") == 1
    (record,) = log.records
    assert record.levelno == logging.WARNING
    assert f"patching {library.name}.{path}" in record.getMessage()


@pytest.mark.parametrize("path", ["Client.missing", "Missing.method", "missing"])
def test_missing_optional_point_logs_nothing(library, log, path):
    table = PatchTable([library.point(path, optional=True), library.point("Client.method")])
    table.apply()
    assert library.call("Client.method") == 1
    table.revert()
    table.apply()
    assert log.records == []


def test_optional_point_logs_warning_when_owner_rejects_wrapper(library, log):
    table = PatchTable([library.point("Client.limit.real", optional=True)])
    table.apply()
    library.load()
    assert [record.levelno for record in log.records] == [logging.WARNING]


def test_revert_restores_other_points_when_one_was_deleted(library, log):
    table = library.table("Client.method", "function")
    table.apply()
    module = library.load()
    del module.Client
    table.revert()
    assert module.function(1) == ("function", 1)
    assert not isinstance(module.function, wrapt.FunctionWrapper)
    assert library.wrapper_calls == []


def test_failed_import_raises_and_can_be_repeated(tmp_path, library):
    path = tmp_path / f"{library.name}.py"
    path.write_text("raise RuntimeError('broken')")
    library.table("Client.method").apply()
    with pytest.raises(RuntimeError, match="broken"):
        library.load()
    path.write_text(SOURCE + "\n# fixed\n")
    importlib.invalidate_caches()
    assert library.call("Client.method") == 1


def test_apply_and_revert_are_thread_safe(library):
    before = library.namespaces()
    table = library.table(*POINTS)

    def flip() -> None:
        for _ in range(20):
            table.apply()
            table.revert()

    threads = [threading.Thread(target=flip) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert library.namespaces() == before
    table.apply()
    assert all(library.call(path) == 1 for path in POINTS)

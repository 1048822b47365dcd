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
    library.table("Client.own", "Client.of_class", "Client.of_none", "function").apply()
    module = library.load()
    client = module.Client()
    client.own(x=1)
    module.Client.of_class(2)
    module.Client.of_none(3)
    module.function(4)
    assert library.seen == [
        ("Client.own", client, (), {"x": 1}),
        ("Client.of_class", module.Client, (2,), {}),
        ("Client.of_none", None, (3,), {}),
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


def test_two_tables_wrap_same_point(library):
    first, second = library.table("Client.own"), library.table("Client.own")
    first.apply()
    second.apply()
    assert library.call("Client.own") == 2
    first.revert()  # Not the outermost wrapper.
    assert library.call("Client.own") == 1
    second.revert()
    assert library.call("Client.own") == 0


def test_apply_covers_subclasses_and_existing_instances(library):
    module = library.load()
    early = module.Client()
    library.table("Client.own").apply()

    class Special(module.Client):
        pass

    early.own(1)
    Special().own(1)
    assert len(library.seen) == 2
    assert library.seen[0][1] is early


def test_apply_does_not_patch_base_of_inherited_method(library):
    library.table("Client.inherited").apply()
    module = library.load()
    module.Base().inherited(1)
    assert library.seen == []
    assert "inherited" in vars(module.Client)


def test_coroutine_function_keeps_kind_name_and_signature(library):
    before = inspect.signature(library.load().Client.async_own)
    library.table("Client.async_own", "Client.own").apply()
    client = library.load().Client
    assert inspect.iscoroutinefunction(client.async_own)
    assert inspect.iscoroutinefunction(client().async_own)
    assert not inspect.iscoroutinefunction(client.own)
    assert client.own.__name__ == "own"
    assert client.own.__qualname__ == "Client.own"
    assert inspect.signature(client.async_own) == before


@pytest.mark.parametrize("path", POINTS)
def test_patched_function_can_be_pickled_and_copied(library, path):
    library.table(path).apply()
    function = operator.attrgetter(path)(library.load())
    assert copy.copy(function) == function
    assert copy.deepcopy(function) == function
    data = pickle.dumps(function)
    assert b"llamatelemetry" not in data
    assert pickle.loads(data) == function


@pytest.mark.parametrize("name", ["own", "inherited", "async_own", "generated"])
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
    library.table("Client.generated").apply()
    client = library.load().Client
    assert inspect.isgeneratorfunction(client.generated)
    assert inspect.isgenerator(client().generated(1))


def test_revert_restores_every_object_and_removes_inherited_wrappers(library):
    before = library.dicts()
    table = library.table(*POINTS)
    table.apply()
    assert library.dicts() != before
    table.revert()
    after = library.dicts()
    assert after == before
    for owner, members in before.items():
        assert list(after[owner]) == list(members)  # In the same order.
        assert all(after[owner][name] is value for name, value in members.items())


@pytest.mark.parametrize("path", POINTS)
def test_apply_and_revert_can_be_repeated(library, path):
    before = library.dicts()
    table = library.table(path)
    for _ in range(3):
        table.apply()
        assert library.call(path) == 1
        table.revert()
        assert library.call(path) == 0
        assert library.dicts() == before


def test_revert_before_import_cancels_patching(library):
    table = library.table(*POINTS)
    table.apply()
    table.revert()
    assert all(library.call(path) == 0 for path in POINTS)
    assert "inherited" not in vars(library.load().Client)


def test_apply_after_revert_wraps_point_on_import(library):
    table = library.table("Client.own")
    table.apply()
    table.revert()
    table.apply()
    assert library.call("Client.own") == 1


def test_apply_wraps_module_imported_after_revert(library):
    table = library.table("Client.own")
    table.apply()
    table.revert()
    assert library.call("Client.own") == 0
    table.apply()
    assert library.call("Client.own") == 1


def test_revert_does_nothing_when_not_applied(library):
    table = library.table(*POINTS)
    table.revert()
    before = library.dicts()
    table.revert()
    assert library.dicts() == before


def test_kept_bound_method_follows_revert_and_apply(library):
    table = library.table("Client.own")
    table.apply()
    own = library.load().Client().own
    table.revert()
    assert own(1) == ("own", 1)
    assert library.seen == []
    table.apply()
    assert own(1) == ("own", 1)
    assert len(library.seen) == 1


@pytest.fixture
def log(caplog):
    internal_errors.set_strict(False)
    caplog.set_level(logging.DEBUG, logger="llamatelemetry")
    return caplog


@pytest.mark.parametrize("path", ["Client.missing", "Missing.own", "missing"])
def test_missing_point_logs_one_warning_and_import_succeeds(library, log, path):
    library.table(path, "Client.own").apply()
    assert library.call("Client.own") == 1
    (record,) = log.records
    assert record.levelno == logging.WARNING
    assert f"patching {library.name}.{path}" in record.getMessage()


@pytest.mark.parametrize("path", ["Client.missing", "Missing.own", "missing"])
def test_missing_optional_point_logs_nothing(library, log, path):
    table = PatchTable([library.point(path, optional=True), library.point("Client.own")])
    table.apply()
    assert library.call("Client.own") == 1
    table.revert()
    table.apply()
    assert log.records == []


def test_optional_point_logs_warning_when_owner_rejects_wrapper(library, log):
    table = PatchTable([library.point("Client.limit.real", optional=True)])
    table.apply()
    library.load()
    assert [record.levelno for record in log.records] == [logging.WARNING]


def test_revert_restores_other_points_when_one_was_deleted(library, log):
    table = library.table("Client.own", "function")
    table.apply()
    module = library.load()
    del module.Client
    table.revert()
    assert module.function(1) == ("function", 1)
    assert not isinstance(module.function, wrapt.FunctionWrapper)
    assert library.seen == []


def test_failed_import_raises_and_can_be_repeated(tmp_path, library):
    path = tmp_path / f"{library.name}.py"
    path.write_text("raise RuntimeError('broken')")
    library.table("Client.own").apply()
    with pytest.raises(RuntimeError, match="broken"):
        library.load()
    path.write_text(SOURCE + "\n# fixed\n")
    importlib.invalidate_caches()
    assert library.call("Client.own") == 1


def test_apply_and_revert_are_thread_safe(library):
    before = library.dicts()
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
    assert library.dicts() == before
    table.apply()
    assert all(library.call(path) == 1 for path in POINTS)

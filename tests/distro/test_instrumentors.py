"""Loading of instrumentors, also if several instrument the same library."""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.metadata import EntryPoint
from unittest.mock import ANY

import pytest

from llamatelemetry.config import effective_config
from llamatelemetry.distro import (
    LlamaTelemetryDistro,
    installed_instrumentors,
    instrumentors,
    load_instrumentors,
    preferred_instrumentor,
)
from llamatelemetry.genai import internal_errors
from tests.support.temporary_distributions import (
    make_distribution,
    make_instrumentor,
    throwaway_path,  # noqa: F401 - a fixture
)

OURS, THEIRS = "llamatelemetry_openai", "openai"
RIVAL = "opentelemetry-instrumentation-openai-v2"


@pytest.fixture
def folder(throwaway_path):  # noqa: F811 - the imported fixture
    yield throwaway_path
    instrumentors.uninstrument_all()


def load(*names: str) -> None:
    """Load the instrumentors of these names as OpenTelemetry's loader does."""
    for entry_point in installed_instrumentors():
        if entry_point.name in names:
            LlamaTelemetryDistro().load_instrumentor(entry_point, skip_dep_check=True)


def calls(module: str) -> list:
    return importlib.import_module(module).CALLS if module in sys.modules else []


def ours_is_active() -> bool:
    from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

    return OpenAIInstrumentor().is_instrumented_by_opentelemetry


def prepare(mode: str, **declared: bool) -> None:
    instrumentors.prepare(effective_config(instrumentors=mode), declared)


class TestCompetingInstrumentors:
    @pytest.mark.parametrize(
        ("mode", "ours", "theirs", "level"),
        [
            ("auto", True, False, logging.WARNING),
            ("ours", True, False, logging.INFO),
            ("theirs", False, True, logging.INFO),
            ("all", True, True, None),
        ],
    )
    @pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)])
    def test_option_selects_instrumentor_independent_of_order(
        self, folder, caplog, *, mode, ours, theirs, level, order
    ):
        make_instrumentor(folder, RIVAL, THEIRS, "throwaway_rival")
        prepare(mode)
        caplog.set_level(logging.INFO, "llamatelemetry")
        for name in order:
            load(name)
            load(name)  # again, as when init() follows the zero-code path
        assert ours_is_active() is ours
        assert calls("throwaway_rival") == ([("instrument", {})] if theirs else [])
        skipped = [
            record for record in caplog.records if "Not loading instrumentor" in record.message
        ]
        assert [record.levelno for record in skipped] == ([] if level is None else [level])
        for record in skipped:
            assert f"{THEIRS} ({RIVAL} 1.0)" in record.message
            assert "LLAMATELEMETRY_INSTRUMENTORS=" in record.message
            assert "=all to load both" in record.message

    @pytest.mark.parametrize("disabled", [OURS, f"requests , {OURS}"])
    def test_competing_instrumentor_is_loaded_when_own_is_disabled(
        self, folder, monkeypatch, disabled
    ):
        make_instrumentor(folder, RIVAL, THEIRS, "throwaway_rival")
        monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", disabled)
        prepare("auto")
        load(THEIRS)
        assert calls("throwaway_rival") == [("instrument", {})]

    def test_competing_instrumentor_is_loaded_when_file_disables_own(self, folder):
        make_instrumentor(folder, RIVAL, THEIRS, "throwaway_rival")
        prepare("auto", **{OURS: False})
        load(OURS, THEIRS)
        assert not ours_is_active()
        assert calls("throwaway_rival") == [("instrument", {})]

    def test_competing_instrumentor_is_loaded_when_own_fails(self, folder, monkeypatch, caplog):
        make_instrumentor(folder, RIVAL, THEIRS, "throwaway_rival")
        make_instrumentor(
            folder, "broken", "llamatelemetry_broken", "throwaway_broken", body="raise OSError"
        )
        monkeypatch.setattr(
            "llamatelemetry.distro._instrumentors.COMPETING_INSTRUMENTORS",
            {"llamatelemetry_broken": frozenset({THEIRS})},
        )
        internal_errors.set_strict(False)
        prepare("auto")
        load(THEIRS, "llamatelemetry_broken")
        assert calls("throwaway_rival") == [("instrument", {})]
        assert "failed while loading the instrumentor llamatelemetry_broken" in caplog.text

    def test_own_instrumentor_is_loaded_when_competing_one_cannot_be(self, folder):
        make_instrumentor(
            folder,
            RIVAL,
            THEIRS,
            "throwaway_rival",
            requires=['not-installed-anywhere >= 1; extra == "instruments"'],
        )
        prepare("theirs")
        load(OURS)
        assert ours_is_active()
        assert calls("throwaway_rival") == []

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("llamatelemetry_openai", "openai"),
            ("llamatelemetry_openai", "openai-v2"),
            ("llamatelemetry_llamacpp", "llama-cpp-python"),
            ("llamatelemetry_transformers", "transformers"),
        ],
    )
    def test_preferred_instrumentor_recognizes_competing_names(self, ours, theirs):
        group = "opentelemetry_instrumentor"
        one, other = EntryPoint(ours, "a:b", group), EntryPoint(theirs, "c:d", group)
        assert preferred_instrumentor(other, [one, other], "auto", {}) == one
        assert preferred_instrumentor(one, [one, other], "auto", {}) is None
        assert preferred_instrumentor(one, [one, other], "theirs", {}) == other

    def test_instrumentors_of_other_libraries_do_not_compete(self):
        group = "opentelemetry_instrumentor"
        ours = EntryPoint("llamatelemetry_openai", "a:b", group)
        for name in ("openai_agents", "httpx", "requests", "anthropic", "transformers"):
            other = EntryPoint(name, "c:d", group)
            assert preferred_instrumentor(other, [ours, other], "auto", {}) is None


class TestLoading:
    def test_load_instrumentors_skips_disabled_and_conflicting_ones(
        self, folder, monkeypatch, caplog
    ):
        make_instrumentor(folder, "a", "good", "throwaway_good")
        make_instrumentor(folder, "b", "off", "throwaway_off")
        missing = 'not-installed-anywhere >= 1; extra == "instruments"'
        make_instrumentor(folder, "c", "missing", "throwaway_missing", requires=[missing])
        outdated = 'pytest < 1; extra == "instruments"'
        make_instrumentor(folder, "d", "outdated", "throwaway_outdated", requires=[outdated])
        make_distribution(
            folder,
            "hooks",
            entry_points={
                "opentelemetry_pre_instrument": {"before": "throwaway_hooks:before"},
                "opentelemetry_post_instrument": {"after": "throwaway_hooks:after"},
            },
            modules={
                "throwaway_hooks": "from throwaway_good import CALLS\n"
                "def before(): CALLS.append('before')\n"
                "def after(): CALLS.append('after')\n"
            },
        )
        monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "off, httpx2")
        prepare("auto")
        load_instrumentors(LlamaTelemetryDistro())
        assert calls("throwaway_good") == ["before", ("instrument", ANY), "after"]
        for name in ("throwaway_off", "throwaway_missing", "throwaway_outdated"):
            assert calls(name) == []
        assert "Not loading instrumentor outdated: " in caplog.text
        assert "Not loading instrumentor missing" not in caplog.text

    def test_own_instrumentors_get_active_config_and_others_do_not(self, folder):
        make_instrumentor(folder, "a", "llamatelemetry_a", "throwaway_a")
        make_instrumentor(folder, "b", "b", "throwaway_b")
        config = effective_config(provider_name="vllm")
        instrumentors.prepare(config)
        load("llamatelemetry_a", "b")
        assert calls("throwaway_a") == [("instrument", {"config": config})]
        assert calls("throwaway_b") == [("instrument", {})]

    def test_instrumentor_gets_config_of_environment_without_setup(self, folder, monkeypatch):
        make_instrumentor(folder, "a", "llamatelemetry_a", "throwaway_a")
        monkeypatch.setenv("LLAMATELEMETRY_PROVIDER_NAME", "vllm")
        load("llamatelemetry_a")
        ((_, options),) = calls("throwaway_a")
        assert options["config"].provider_name == "vllm"

    @pytest.mark.parametrize(
        ("body", "logged"),
        [
            ("raise RuntimeError('broken')", "Instrumentor bad (a 1.0) failed to load"),
            ("import no_such_module_anywhere", ""),
            ("raise ImportError('half installed')", "Instrumentor bad (a 1.0) failed to load"),
        ],
    )
    def test_failure_is_logged_once_and_other_instrumentors_load(
        self, folder, caplog, body, logged
    ):
        make_instrumentor(folder, "a", "bad", "throwaway_bad", body=body)
        make_instrumentor(folder, "b", "good", "throwaway_good")
        prepare("auto")
        load("bad", "good")
        load("bad", "good")
        assert calls("throwaway_good") == [("instrument", {})]
        assert caplog.text.count("failed to load") == (1 if logged else 0)
        assert logged in caplog.text

    def test_uninstrument_all_reverts_only_what_was_loaded(self, folder, caplog):
        make_instrumentor(folder, "a", "by_us", "throwaway_by_us")
        make_instrumentor(folder, "b", "by_the_application", "throwaway_other")
        make_instrumentor(folder, "c", "by_the_file", "throwaway_file")
        make_instrumentor(folder, "d", "off", "throwaway_off")
        module = importlib.import_module
        module("throwaway_other").Instrumentor().instrument()
        module("throwaway_file").Instrumentor().instrument()
        prepare("auto", by_the_file=True, off=False)
        load("by_us", "by_the_application", "by_the_file", "off")
        instrumentors.uninstrument_all()
        assert calls("throwaway_by_us") == [("instrument", {}), ("uninstrument", {})]
        assert calls("throwaway_other") == [("instrument", {})]
        assert calls("throwaway_file") == [("instrument", {}), ("uninstrument", {})]
        assert calls("throwaway_off") == []
        assert caplog.records == []
        instrumentors.uninstrument_all()
        assert len(calls("throwaway_by_us")) == 2

    def test_warning_names_ignored_options_when_own_instrumentor_was_active(self, folder, caplog):
        make_instrumentor(folder, "a", "llamatelemetry_a", "throwaway_a")
        importlib.import_module("throwaway_a").Instrumentor().instrument()
        environ = {"LLAMATELEMETRY_PROPAGATE": "off"}
        config = effective_config(environ=environ, capture_content="span_only", service_name="x")
        instrumentors.prepare(config)
        load("llamatelemetry_a")
        (warning,) = caplog.records
        assert warning.message.startswith("Ignored capture_content: ")

    @pytest.mark.parametrize("name", ["propagate_hosts", "response_headers", "stream_usage"])
    def test_warning_names_each_ignored_option_of_calls(self, folder, caplog, name):
        make_instrumentor(folder, "a", "llamatelemetry_a", "throwaway_a")
        importlib.import_module("throwaway_a").Instrumentor().instrument()
        instrumentors.prepare(effective_config(environ={}, **{name: "true"}))
        load("llamatelemetry_a")
        (warning,) = caplog.records
        assert warning.message.startswith(f"Ignored {name}: ")

    def test_uninstrument_all_continues_when_one_fails(self, folder, caplog):
        make_instrumentor(folder, "a", "good", "throwaway_good")
        make_instrumentor(folder, "b", "bad", "throwaway_bad")
        prepare("auto")
        load("good")
        load("bad")
        sys.modules["throwaway_bad"].Instrumentor._uninstrument = None
        instrumentors.uninstrument_all()
        assert calls("throwaway_good")[-1] == ("uninstrument", {})
        assert "Instrumentor failed to uninstrument" in caplog.text

    def test_reload_own_changes_options_of_own_instrumentors_only(self, folder):
        make_instrumentor(folder, "a", "llamatelemetry_a", "throwaway_a")
        make_instrumentor(folder, "b", "b", "throwaway_b")
        make_instrumentor(folder, "c", "llamatelemetry_c", "throwaway_c")
        prepare("auto")
        load("llamatelemetry_a", "b")
        changed = effective_config(capture_content="span_only")
        instrumentors.reload_own(changed)
        assert calls("throwaway_a")[1:] == [
            ("uninstrument", {}),
            ("instrument", {"config": changed}),
        ]
        assert calls("throwaway_b") == [("instrument", {})]
        assert calls("throwaway_c") == []

    def test_no_instrumentor_is_loaded_when_sdk_is_disabled(self, folder, monkeypatch):
        make_instrumentor(folder, "a", "a", "throwaway_a")
        monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
        load("a")
        assert calls("throwaway_a") == []

"""Server flags: spelled as the `--help` of the found server spells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatelemetry.llama import ServerConfig, ServerManagerError, UnsupportedOptionError
from llamatelemetry.llama.server.binary import Binary
from llamatelemetry.llama.server.flags import server_flags
from llamatelemetry.llama.server.help import parse_help, read_help
from tests.support.fake_llama_server import ANCIENT_HELP, COMMON, NEW, OLD, make_server, render_help

ALWAYS = ["--host", "127.0.0.1", "--port", "9000", "--ctx-size", "4096", "--parallel", "1"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF and llama.pooling_type")
    return path


def flags(model: Path, options: list | str = NEW, **fields) -> list[str]:
    """Return the flags after those for model, address and sizes, which are always the same."""
    text = options if isinstance(options, str) else render_help(options)
    found = server_flags(ServerConfig(model, **fields), 9000, parse_help(text), "llama-server")
    assert found[:4] == ["--model", str(model), "--alias", "tiny"]
    assert found[4:12] == ALWAYS
    return found[12:]


@pytest.mark.parametrize(
    ("fields", "new", "old"),
    [
        ({}, [], []),
        ({"flash_attn": True}, ["--flash-attn", "on"], ["--flash-attn"]),
        ({"flash_attn": False}, ["--flash-attn", "off"], []),
        ({"mlock": True}, ["--load-mode", "mmap+mlock"], ["--mlock"]),
        ({"mmap": False}, ["--load-mode", "none"], ["--no-mmap"]),
        ({"mlock": True, "mmap": False}, ["--load-mode", "mlock"], ["--mlock", "--no-mmap"]),
        ({"tensor_split": [3, 1]}, ["--tensor-split", "3,1"], ["--tensor-split", "3,1"]),
        ({"tensor_split": [0.5, 0.25]}, ["--tensor-split", "0.5,0.25"], None),
        ({"split_mode": "row", "main_gpu": 1}, ["--split-mode", "row", "--main-gpu", "1"], None),
        ({"n_batch": 64, "n_ubatch": 32}, ["--batch-size", "64", "--ubatch-size", "32"], None),
        ({"threads": 3}, ["--threads", "3"], ["--threads", "3"]),
        ({"cache_type_k": "q8_0"}, ["--cache-type-k", "q8_0"], ["--cache-type-k", "q8_0"]),
        ({"cache_type_v": "q4_0"}, ["--cache-type-v", "q4_0"], ["--cache-type-v", "q4_0"]),
        ({"embeddings": True}, ["--embeddings"], ["--embeddings"]),
        ({"reranking": True}, ["--reranking"], ["--reranking"]),
        ({"chat_template": "chatml"}, ["--chat-template", "chatml"], None),
        ({"chat_template": "{{ x }}"}, ["--jinja", "--chat-template", "{{ x }}"], None),
        ({"extra_args": ["--verbose", "1"]}, ["--verbose", "1"], ["--verbose", "1"]),
    ],
)
def test_server_flags_spell_each_field_as_new_and_old_builds_do(model: Path, fields, new, old):
    def without(arguments: list[str], *names: str) -> list[str]:
        for name in names:
            if name in arguments:
                at = arguments.index(name)
                del arguments[at : at + (1 if name == "--metrics" else 2)]
        return arguments

    defaults = ("--n-gpu-layers", "--metrics", "--verbosity")
    assert without(flags(model, NEW, **fields), *defaults) == new
    assert without(flags(model, OLD, **fields), *defaults) == (new if old is None else old)


def test_server_flags_pass_all_layers_as_word_or_number(model: Path):
    assert flags(model, NEW) == ["--n-gpu-layers", "all", "--metrics", "--verbosity", "4"]
    assert flags(model, OLD) == ["--n-gpu-layers", "999", "--metrics"]
    assert flags(model, NEW, n_gpu_layers=0)[:2] == ["--n-gpu-layers", "0"]


def test_server_flags_omit_layers_for_build_without_gpu_support(model: Path):
    assert flags(model, COMMON) == ["--metrics"]
    with pytest.raises(UnsupportedOptionError, match=r"ServerConfig\.n_gpu_layers"):
        flags(model, COMMON, n_gpu_layers=3)


def test_server_flags_enable_speculative_decoding_for_draft_model(model: Path):
    draft = model.with_name("draft.gguf")
    draft.write_bytes(b"GGUF")
    found = flags(model, NEW, draft_model=draft)
    assert found[3:7] == ["--spec-draft-model", str(draft), "--spec-type", "draft-simple"]
    assert flags(model, OLD, draft_model=draft)[3:] == ["--model-draft", str(draft)]
    chosen = flags(model, NEW, draft_model=draft, extra_args=["--spec-type", "ngram-mod"])
    assert chosen.count("--spec-type") == 1


def test_server_flags_set_pooling_when_model_defines_none(model: Path):
    model.write_bytes(b"GGUF without the key")
    found = flags(model, NEW, embeddings=True)
    assert found[3:6] == ["--embeddings", "--pooling", "mean"]
    found = flags(model, NEW, embeddings=True, extra_args=["--pooling", "cls"])
    assert found.count("--pooling") == 1


def test_server_flags_pass_template_file_by_path(model: Path):
    template = model.with_name("template.jinja")
    template.write_text("{{ messages }}")
    found = flags(model, NEW, chat_template=str(template))
    assert found[3:6] == ["--jinja", "--chat-template-file", str(template)]


def test_server_flags_keep_verbosity_of_extra_args(model: Path):
    assert "--verbosity" not in flags(model, NEW, extra_args=["-lv", "1"])


def test_server_flags_pass_models_directory_to_router(model: Path):
    found = server_flags(ServerConfig(model.parent), 1, parse_help(render_help(NEW)), "x")
    assert found[:2] == ["--models-dir", str(model.parent)]
    assert "--alias" not in found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embeddings": True}, "lists none of --embeddings, --embedding"),
        ({"flash_attn": True}, r"llama-server has no flag for ServerConfig\.flash_attn"),
        ({"flash_attn": False}, "flash_attn"),
        ({"mlock": True}, "lists none of --load-mode, --mlock"),
        ({"mmap": False}, "lists none of --load-mode, --no-mmap"),
        ({"draft_model": True}, "draft_model"),
        ({"split_mode": "row"}, "split_mode"),
    ],
)
def test_server_flags_raise_for_option_without_flag(model: Path, fields, message):
    fields = {name: model if name == "draft_model" else value for name, value in fields.items()}
    with pytest.raises(UnsupportedOptionError, match=message):
        flags(model, COMMON, **fields)


def test_server_flags_raise_for_load_mode_missing_in_help(model: Path):
    text = render_help(NEW).replace("- mmap+mlock:", "- gone:")
    with pytest.raises(UnsupportedOptionError, match=r"no load mode 'mmap\+mlock'"):
        flags(model, text, mlock=True)


class TestHelp:
    def test_parse_help_reads_formats_of_all_builds(self):
        ancient = parse_help(ANCIENT_HELP)
        assert ancient.find("-m")[1].names == ("-m", "--model")
        assert ancient.find("--n-gpu-layers")[1].hint == "N"
        assert ancient.find("--flash-attn")[1].hint == ""
        new = parse_help(render_help(NEW))
        assert new.find("-fa")[1].hint == "[on|off|auto]"
        assert new.find("--no-such", "-md")[1].names[0] == "--spec-draft-model"

    def test_parse_help_omits_removed_options(self):
        assert parse_help(render_help(NEW)).find("--draft", "--draft-max") is None

    def test_read_help_is_cached_until_program_changes(self, tmp_path: Path):
        binary = Binary(make_server(tmp_path, OLD), "created by this test")
        first = read_help(binary, {})
        assert read_help(binary, {}) is first
        make_server(tmp_path, NEW)
        assert read_help(binary, {}).find("--load-mode")

    def test_read_help_raises_with_output_of_other_program(self, tmp_path: Path):
        binary = tmp_path / "other"
        binary.write_text("#!/bin/sh\necho 'I am something else'\nexit 3\n")
        binary.chmod(0o755)
        with pytest.raises(ServerManagerError, match=r"exit status 3.*\nI am something else"):
            read_help(Binary(binary, "created by this test"), {})

"""Validation of `ServerConfig`: each error names the field."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from llamatelemetry.llama import ServerConfig


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    return path


def test_config_has_documented_parameters_and_defaults(model: Path):
    parameters = inspect.signature(ServerConfig).parameters
    first, *others = parameters.values()
    assert (first.name, first.default) == ("model_path", inspect.Parameter.empty)
    assert {each.kind for each in others} == {inspect.Parameter.KEYWORD_ONLY}
    assert {each.name: each.default for each in others} == {
        "host": "127.0.0.1",
        "port": 8080,
        "n_gpu_layers": -1,
        "n_ctx": 4096,
        "flash_attn": None,
        "tensor_split": None,
        "split_mode": None,
        "main_gpu": None,
        "n_parallel": 1,
        "n_batch": None,
        "n_ubatch": None,
        "threads": None,
        "cache_type_k": None,
        "cache_type_v": None,
        "mlock": False,
        "mmap": True,
        "embeddings": False,
        "reranking": False,
        "metrics": True,
        "alias": None,
        "api_key": None,
        "chat_template": None,
        "draft_model": None,
        "extra_args": (),
        "env": None,
        "startup_timeout_s": 120.0,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": -1}, r"port must be an integer from 0 \(any free port\) to 65535, got -1"),
        ({"port": 65536}, "port must be .* got 65536"),
        ({"port": "8080"}, "port must be .* got '8080'"),
        ({"port": True}, "port must be .* got True"),
        ({"host": ""}, "host must be one host name or address, got ''"),
        ({"host": "/run/llama.sock"}, "host must be .* got '/run/llama.sock'"),
        ({"host": "127.0.0.1,::1"}, "host must be "),
        ({"n_gpu_layers": -2}, "n_gpu_layers must be an integer >= -1, got -2"),
        ({"n_ctx": -1}, "n_ctx must be an integer >= 0, got -1"),
        ({"n_ctx": 4096.0}, "n_ctx must be .* got 4096.0"),
        ({"n_parallel": 0}, "n_parallel must be an integer >= 1, got 0"),
        ({"n_batch": 0}, "n_batch must be .* got 0"),
        ({"n_ubatch": 0}, "n_ubatch must be .* got 0"),
        ({"threads": 0}, "threads must be .* got 0"),
        ({"main_gpu": -1}, "main_gpu must be .* got -1"),
        ({"tensor_split": [3, -1]}, "tensor_split must contain only numbers >= 0, got -1"),
        ({"tensor_split": [float("nan")]}, "tensor_split must contain .* got nan"),
        ({"tensor_split": [0, 0]}, r"tensor_split must contain a number > 0, got \[0, 0\]"),
        ({"tensor_split": []}, r"tensor_split must contain a number > 0, got \[\]"),
        (
            {"tensor_split": "3,1"},
            r"tensor_split must be a list of numbers such as \[3, 1\], got '3,1'",
        ),
        ({"split_mode": "rows"}, "split_mode must be one of none, layer, row, tensor, got 'rows'"),
        ({"cache_type_k": "q9_0"}, "cache_type_k must be one of f32, f16, .* got 'q9_0'"),
        ({"cache_type_v": "int8"}, "cache_type_v must be .* got 'int8'"),
        ({"flash_attn": "on"}, "flash_attn must be True or False, got 'on'"),
        ({"mlock": 1}, "mlock must be .* got 1"),
        ({"mmap": None}, "mmap must be .* got None"),
        ({"alias": ""}, "alias must be a non-empty string .* got ''"),
        ({"alias": "a,b"}, "alias must be .* without commas .* got 'a,b'"),
        ({"api_key": "  "}, "api_key must be a non-empty string [^:]*$"),
        ({"api_key": "one\ntwo"}, "api_key must be .* without .* control characters$"),
        ({"chat_template": ""}, "chat_template must be a template"),
        ({"draft_model": "missing.gguf"}, "draft_model must be an existing file, got missing.gguf"),
        ({"extra_args": "--verbose"}, "extra_args must be a list of arguments, got '--verbose'"),
        (
            {"extra_args": ["--port", "1"]},
            "extra_args must not contain --port. Set the field port instead",
        ),
        (
            {"extra_args": ["--api-key=secret"]},
            "extra_args must not contain --api-key. Set the field api_key instead$",
        ),
        ({"env": {"A": 1}}, "env must have strings as names and values"),
        ({"startup_timeout_s": 0}, "startup_timeout_s must be greater than 0, got 0"),
        ({"startup_timeout_s": float("nan")}, "startup_timeout_s must be greater than 0, got nan"),
    ],
)
def test_config_names_field_with_invalid_value(model: Path, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ServerConfig(model, **changes)


def test_config_rejects_path_without_gguf_model(tmp_path: Path):
    missing, other, empty = (tmp_path / name for name in ("missing.gguf", "other", "empty"))
    other.write_bytes(b"PK\x03\x04")
    empty.touch()
    for path, message in (
        (missing, "model_path must be an existing file, got "),
        (other, r"model_path must be a GGUF file, got .* starts with b'PK"),
        (empty, "model_path must be a GGUF file"),
        (tmp_path, "model_path must contain a GGUF file, got the directory"),
        ("", "model_path must be a path, got ''"),
        (None, "model_path must be a path, got None"),
    ):
        with pytest.raises(ValueError, match=message):
            ServerConfig(path)


def test_is_router_is_true_for_directory(model: Path):
    assert ServerConfig(model.parent).is_router
    assert not ServerConfig(model).is_router


def test_config_is_frozen_and_converts_sequences_to_tuples(model: Path):
    config = ServerConfig(str(model), tensor_split=[3, 1], extra_args=["-v"])
    assert config.model_path == config.model_file == model
    assert (config.tensor_split, config.extra_args) == ((3, 1), ("-v",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1
    assert dataclasses.replace(config, port=1).port == 1


def test_repr_omits_secrets(model: Path):
    shown = repr(ServerConfig(model, api_key="sk-hidden", env={"HF_TOKEN": "hf-hidden"}))
    assert "hidden" not in shown


def test_model_name_is_alias_or_file_stem(model: Path):
    assert ServerConfig(model).model_name == "tiny"
    assert ServerConfig(model, alias="mine").model_name == "mine"

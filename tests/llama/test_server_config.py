"""`ServerConfig` refuses what cannot work, when it is made, and says which field it is."""

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


def test_has_the_parameters_and_defaults_of_the_contract(model: Path):
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
        ({"port": -1}, r"port: -1 is not a port \(0 to 65535; 0 picks a free one\)"),
        ({"port": 65536}, "port: 65536"),
        ({"port": "8080"}, "port: '8080'"),
        ({"port": True}, "port: True"),
        ({"host": ""}, "host: ''"),
        ({"host": "/run/llama.sock"}, "host: '/run/llama.sock'"),
        ({"host": "127.0.0.1,::1"}, "host: "),
        ({"n_gpu_layers": -2}, "n_gpu_layers: -2 is not an integer of -1 or more"),
        ({"n_ctx": -1}, "n_ctx: -1"),
        ({"n_ctx": 4096.0}, "n_ctx: 4096.0"),
        ({"n_parallel": 0}, "n_parallel: 0 is not an integer of 1 or more"),
        ({"n_batch": 0}, "n_batch: 0"),
        ({"n_ubatch": 0}, "n_ubatch: 0"),
        ({"threads": 0}, "threads: 0"),
        ({"main_gpu": -1}, "main_gpu: -1"),
        ({"tensor_split": [3, -1]}, "tensor_split: -1 is not a number of 0 or more"),
        ({"tensor_split": [float("nan")]}, "tensor_split: nan"),
        ({"tensor_split": [0, 0]}, "gives no GPU a part"),
        ({"tensor_split": []}, "gives no GPU a part"),
        (
            {"tensor_split": "3,1"},
            r"tensor_split: '3,1' is not a list of numbers, such as \[3, 1\]",
        ),
        ({"split_mode": "rows"}, "split_mode: 'rows' is not one of none, layer, row, tensor"),
        ({"cache_type_k": "q9_0"}, "cache_type_k: 'q9_0' is not one of f32, f16"),
        ({"cache_type_v": "int8"}, "cache_type_v: 'int8'"),
        ({"flash_attn": "on"}, "flash_attn: 'on' is not True or False"),
        ({"mlock": 1}, "mlock: 1"),
        ({"mmap": None}, "mmap: None"),
        ({"alias": ""}, "alias: ''"),
        ({"alias": "a,b"}, "alias: 'a,b'"),
        ({"api_key": "  "}, "api_key: the value is empty"),
        ({"api_key": "one\ntwo"}, "api_key: the value"),
        ({"chat_template": ""}, "chat_template"),
        ({"draft_model": "missing.gguf"}, "draft_model: no such file: missing.gguf"),
        ({"extra_args": "--verbose"}, "extra_args: '--verbose' is not a list"),
        ({"extra_args": ["--port", "1"]}, "extra_args: --port is set by the field port"),
        (
            {"extra_args": ["--api-key=secret"]},
            "extra_args: --api-key is set by the field api_key$",
        ),
        ({"env": {"A": 1}}, "env: names and values have to be strings"),
        ({"startup_timeout_s": 0}, "startup_timeout_s: 0"),
        ({"startup_timeout_s": float("nan")}, "startup_timeout_s: nan"),
    ],
)
def test_names_the_field_that_is_wrong(model: Path, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ServerConfig(model, **changes)


def test_refuses_a_model_that_is_missing_or_none(tmp_path: Path):
    missing, other, empty = (tmp_path / name for name in ("missing.gguf", "other", "empty"))
    other.write_bytes(b"PK\x03\x04")
    empty.touch()
    for path, message in (
        (missing, "model_path: no such file: "),
        (other, r"is not a GGUF file \(it begins with b'PK"),
        (empty, "is not a GGUF file"),
        (tmp_path, "no GGUF file in the folder"),
        ("", "model_path: '' is not a path"),
        (None, "model_path: None is not a path"),
    ):
        with pytest.raises(ValueError, match=message):
            ServerConfig(path)


def test_a_folder_of_models_is_a_router(model: Path):
    assert ServerConfig(model.parent).is_router
    assert not ServerConfig(model).is_router


def test_is_frozen_and_keeps_plain_values(model: Path):
    config = ServerConfig(str(model), tensor_split=[3, 1], extra_args=["-v"])
    assert config.model_path == config.model_file == model
    assert (config.tensor_split, config.extra_args) == ((3, 1), ("-v",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1
    assert dataclasses.replace(config, port=1).port == 1


def test_does_not_show_secrets(model: Path):
    shown = repr(ServerConfig(model, api_key="sk-hidden", env={"HF_TOKEN": "hf-hidden"}))
    assert "hidden" not in shown


def test_the_name_of_the_model_is_never_its_path(model: Path):
    assert ServerConfig(model).model_name == "tiny"
    assert ServerConfig(model, alias="mine").model_name == "mine"

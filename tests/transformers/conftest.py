"""Small models on disk, which are created and loaded in milliseconds, and a recorder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.transformers import TransformersBackend
from tests.llama.conftest import recorded
from tests.support.recorder import Recorder

__all__ = ["recorded"]


# Without torch, pytest does not collect the test modules, but it imports this one.
def saved(model: Any, folder: Path, *, only_letters: bool = True) -> Path:
    from tests.support.transformers_models import not_letters, tokenizer

    if only_letters:
        model.generation_config.suppress_tokens = not_letters()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a Llama with a chat template that generates letters only."""
    from tests.support.transformers_models import llama

    return saved(llama(), tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def other_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the directories of an encoder-decoder and of a model that does not generate."""
    from tests.support.transformers_models import bert, t5

    root = tmp_path_factory.mktemp("others")
    return {
        "t5": saved(t5(), root / "tiny-t5"),
        "bert": saved(bert(), root / "tiny-bert", only_letters=False),
    }


@pytest.fixture
def backend(folder: Path) -> TransformersBackend:
    return TransformersBackend(folder, device="cpu")


def only(recorder: Recorder) -> ReadableSpan:
    (span,) = [each for each in recorder.spans() if "llamatelemetry.phase" not in each.attributes]
    return span

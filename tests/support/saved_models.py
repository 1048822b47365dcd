"""Small Transformers models on disk, which are created and loaded in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


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

"""Small models on disk, which are created and loaded in milliseconds, and a recorder."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.transformers import TransformersBackend
from tests.support.recorder import Recorder
from tests.support.saved_models import folder, saved

__all__ = ["folder"]  # a fixture


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

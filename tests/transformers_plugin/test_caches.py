"""Caches that a caller passes to `generate`, by every name in the installed version."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache

from tests.support.recorder import Recorder
from tests.support.transformers_models import (
    BOS,
    CACHE_NAME,
    CACHE_NAMES,
    EOS,
    PAD,
    VOCABULARY,
    encoded,
    llama,
    make_pipeline,
    t5,
)
from tests.transformers_plugin.conftest import only

TWO = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
CACHED = "gen_ai.usage.cache_read.input_tokens"
by_every_name = pytest.mark.parametrize("name", CACHE_NAMES)


def renamed(name: str) -> AbstractContextManager[Any]:
    """Expect the library's warning if `name` is deprecated."""
    return nullcontext() if name == CACHE_NAME else pytest.warns(FutureWarning, match=f"`{name}`")


def filled(model: Any, *texts: str, cache: Any = None) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Return the tokens of a conversation, their mask, and a cache of all but the last token."""
    cache = DynamicCache() if cache is None else cache
    inputs = encoded(*texts)
    tokens = model.generate(**inputs, **{CACHE_NAME: cache}, **TWO)
    mask = torch.cat([inputs["attention_mask"], torch.ones(len(texts), 2, dtype=torch.long)], dim=1)
    return tokens, mask, cache


@by_every_name
def test_generate_counts_cached_tokens_when_caller_passes_cache(
    instrumented: Recorder, name: str
) -> None:
    model = llama()
    tokens, _, cache = filled(model, "Hello!")
    assert only(instrumented).attributes[CACHED] == 0
    instrumented.clear_spans()
    longer = torch.cat([tokens, encoded("ab")["input_ids"]], dim=1)
    with renamed(name):
        model.generate(longer, **{name: cache}, **TWO)
    attributes = only(instrumented).attributes
    assert attributes["gen_ai.usage.input_tokens"] == 10
    assert attributes[CACHED] == 7
    assert attributes["llamatelemetry.prompt_tokens"] == 3
    assert attributes["llamatelemetry.cached_tokens"] == 7


@by_every_name
def test_generate_counts_cached_tokens_when_cache_comes_from_result(
    instrumented: Recorder, name: str
) -> None:
    model = llama()
    result = model.generate(**encoded("Hello!"), return_dict_in_generate=True, **TWO)
    assert CACHED not in only(instrumented).attributes
    instrumented.clear_spans()
    # In version 4 this may be tuples of tensors, which the library also accepts.
    with renamed(name):
        model.generate(result.sequences, **{name: result[CACHE_NAME]}, **TWO)
    attributes = only(instrumented).attributes
    assert attributes["gen_ai.usage.input_tokens"] == 8
    assert attributes[CACHED] == 7


@by_every_name
def test_pipeline_counts_cached_tokens_of_passed_cache(
    instrumented: Recorder, tmp_path: Path, name: str
) -> None:
    pipe = make_pipeline("text-generation", tmp_path)
    cache = DynamicCache()
    with renamed(name):
        pipe("Hello", **{name: cache}, **TWO)
    instrumented.clear_spans()
    # A negative value is the number of positions to remove at the end.
    cache.crop(5 - cache.get_seq_length())
    with renamed(name):
        pipe("Hello!", **{name: cache}, **TWO)
    attributes = only(instrumented).attributes
    assert attributes["gen_ai.usage.input_tokens"] == 6
    assert attributes[CACHED] == 5


def test_cached_tokens_exclude_padding(instrumented: Recorder) -> None:
    model = llama()
    tokens, mask, cache = filled(model, "Hi", "Hello there")
    instrumented.clear_spans()
    model.generate(tokens, attention_mask=mask, **{CACHE_NAME: cache}, **TWO)
    attributes = only(instrumented).attributes
    assert attributes["llamatelemetry.batch.input_tokens"] == (4, 13)
    # All but the last token of each row.
    assert attributes[CACHED] == 3 + 12


class CustomCache(DynamicCache):
    """Cache class of an application."""


@pytest.mark.parametrize(
    "make",
    [
        lambda _: CustomCache(),
        pytest.param(
            lambda config: transformers.QuantizedCache(backend="fp8", config=config),
            marks=pytest.mark.skipif(
                not hasattr(transformers.cache_utils, "Fp8QuantizedLayer"),
                reason="this version needs another package to quantize",
            ),
        ),
    ],
    ids=["custom", "quantized"],
)
def test_custom_and_quantized_caches_are_counted(
    instrumented: Recorder, make: Callable[[Any], Any]
) -> None:
    model = llama()
    tokens, _, cache = filled(model, "Hello!", cache=make(model.config))
    instrumented.clear_spans()
    model.generate(tokens, **{CACHE_NAME: cache}, **TWO)
    assert only(instrumented).attributes[CACHED] == 7


def test_encoder_decoder_cache_is_not_counted_as_input(instrumented: Recorder) -> None:
    model = t5()
    result = model.generate(**encoded("Hello!"), return_dict_in_generate=True, **TWO)
    instrumented.clear_spans()
    model.generate(
        **encoded("Hello!"),
        decoder_input_ids=result.sequences,
        **{CACHE_NAME: result[CACHE_NAME]},
        **TWO,
    )
    attributes = only(instrumented).attributes
    assert attributes["gen_ai.usage.input_tokens"] == 6
    assert CACHED not in attributes


@pytest.mark.skipif(
    not hasattr(transformers.cache_utils, "LinearAttentionLayer"),
    reason="this version has a separate cache class for such models",
)
def test_cached_tokens_are_unset_when_cache_has_no_positions(instrumented: Recorder) -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = transformers.MambaForCausalLM(config).eval()
    name = CACHE_NAME if CACHE_NAME == "cache" else "cache_params"
    model.generate(**encoded("Hello!"), **{name: DynamicCache(config=config)}, **TWO)
    attributes = only(instrumented).attributes
    assert attributes["gen_ai.usage.input_tokens"] == 6
    assert attributes["gen_ai.usage.output_tokens"] == 2
    assert CACHED not in attributes


@by_every_name
def test_instrumentation_adds_no_warnings_about_cache_arguments(
    instrument: Callable[..., Recorder], name: str
) -> None:
    model = llama()

    def run() -> Any:
        tokens, _, cache = filled(model, "Hello!")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = model.generate(tokens, **{name: cache}, return_dict_in_generate=True, **TWO)
        texts = [(each.category, str(each.message)) for each in warned]
        return texts, type(result), list(result), result.sequences.tolist()

    bare = run()
    assert bool(bare[0]) == (name != CACHE_NAME)
    instrument()
    assert run() == bare

"""Results, errors and logs are the same with instrumentation, and nothing is kept alive."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from transformers import (
    BertForSequenceClassification,
    BertModel,
    GenerationMixin,
    LlamaForCausalLM,
    Pipeline,
    StoppingCriteriaList,
    TextStreamer,
)
from transformers.pipelines.pt_utils import PipelineIterator

from llamatelemetry.genai import internal_errors
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
from llamatelemetry_instrumentation_transformers._generation import Generation
from tests.support.recorder import Recorder
from tests.support.transformers_models import (
    CACHE_NAME,
    IS_V5,
    encoded,
    llama,
    make_pipeline,
    t5,
    tokenizer,
)
from tests.transformers_plugin.conftest import calls, only

SAMPLED = {"do_sample": True, "max_new_tokens": 12}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False, "max_new_tokens": 12},
    "sampled": SAMPLED,
    "several sequences": {**SAMPLED, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "max_new_tokens": 8, "do_sample": False},
    "sampled beams": {"num_beams": 3, "max_new_tokens": 8, "do_sample": True},
    "all outputs": {
        **SAMPLED,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "output_attentions": True,
    },
}


def plain(result: Any) -> Any:
    """Return a result as plain values."""
    if isinstance(result, torch.Tensor):
        return result.tolist()
    if isinstance(result, dict):
        return {name: plain(each) for name, each in result.items() if name != CACHE_NAME}
    return [plain(each) for each in result] if isinstance(result, (list, tuple)) else result


@pytest.mark.parametrize("settings", SETTINGS)
def test_seeded_generation_is_unchanged(instrument: Callable[..., Recorder], settings: str) -> None:
    model = llama(attn_implementation="eager")
    inputs = encoded("Hi", "Hello there")

    def run() -> Any:
        torch.manual_seed(7)
        result = model.generate(**inputs, **SETTINGS[settings])
        return type(result), plain(result), torch.rand(1).item()

    bare = run()
    instrument({"record_events": True})
    assert run() == bare


def test_seeded_encoder_decoder_generation_is_unchanged(
    instrument: Callable[..., Recorder],
) -> None:
    def run() -> Any:
        torch.manual_seed(7)
        return plain(t5().generate(**encoded("Hi", "Hello"), **SAMPLED))

    bare = run()
    instrument()
    assert run() == bare


def test_pipeline_result_is_unchanged(instrument: Callable[..., Recorder], tmp_path: Path) -> None:
    pipe = make_pipeline("text-generation", tmp_path)

    def run() -> Any:
        torch.manual_seed(7)
        one = pipe("Hello", max_new_tokens=5)
        several = pipe(["a", "bb", "ccc"], max_new_tokens=5, batch_size=2)
        pulled = pipe((text for text in ("a", "bb")), max_new_tokens=5)
        assert isinstance(pulled, PipelineIterator)
        return one, several, list(pulled)

    bare = run()
    instrument()
    assert run() == bare


def test_streamer_receives_same_text(
    instrument: Callable[..., Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> str:
        torch.manual_seed(7)
        llama().generate(**encoded("Hello"), streamer=TextStreamer(tokenizer()), **SAMPLED)
        return capsys.readouterr().out

    bare = run()
    assert bare
    instrument()
    assert run() == bare


BAD: dict[str, tuple[Any, dict[str, Any]]] = {
    "unknown argument": (encoded("Hi"), {"no_such_argument": 1}),
    "invalid setting": (encoded("Hi"), {"max_new_tokens": 0}),
    "prompt is not a tensor": ({"input_ids": "Hi"}, {}),
    "prompt has one dimension": ({"input_ids": torch.tensor([4, 5])}, {"max_new_tokens": 2}),
    "unknown token id": (
        {"input_ids": torch.tensor([[4, 9999]])},
        {"max_new_tokens": 2, "do_sample": False},
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_exception_of_generate_is_unchanged(instrument: Callable[..., Recorder], bad: str) -> None:
    inputs, kwargs = BAD[bad]
    model = llama()

    def run() -> Any:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                outcome = plain(model.generate(**inputs, **kwargs))
            except Exception as error:
                outcome = (type(error), str(error), error.__cause__, error.__context__)
        return repr(outcome), [str(each.message) for each in warned]

    bare = run()
    recorder = instrument()
    assert run() == bare
    assert len(calls(recorder)) == 1


@pytest.mark.slow
def test_log_output_of_library_is_unchanged(
    instrument: Callable[..., Recorder], tmp_path: Path
) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from transformers import DynamicCache
from tests.support.transformers_models import CACHE_NAME, llama, tokenizer
if sys.argv[1] == "with":
    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
    TransformersInstrumentor().instrument()
tokens = tokenizer()("Hi", return_tensors="pt")
given = {{CACHE_NAME: DynamicCache(), "return_dict_in_generate": True}}
llama().generate(tokens.input_ids, temperature=0.5, do_sample=False, pad_token_id=None, **given)
"""
    done = {
        how: subprocess.run(
            [sys.executable, "-c", program, how],
            capture_output=True,
            text=True,
            env=os.environ | {"HOME": str(tmp_path)},
        )
        for how in ("with", "without")
    }
    assert done["with"].returncode == 0, done["with"].stderr
    assert done["with"].stderr == done["without"].stderr


def test_instrumentation_keeps_no_model_or_tensor_alive(instrumented: Recorder) -> None:
    model = llama()
    inputs = encoded("Hello")
    output = model.generate(**inputs, return_dict_in_generate=True, **SAMPLED)
    references = [
        weakref.ref(model),
        weakref.ref(inputs["input_ids"]),
        weakref.ref(output.sequences),
        weakref.ref(output[CACHE_NAME] if IS_V5 else output[CACHE_NAME][0][0]),
    ]
    assert only(instrumented).attributes["gen_ai.usage.input_tokens"] == 5
    gc.disable()
    try:
        del inputs, output
        assert [reference() for reference in references[1:]] == [None, None, None]
    finally:
        gc.enable()
    del model
    gc.collect()
    assert references[0]() is None


def test_instrumentation_keeps_nothing_alive_after_error(instrumented: Recorder) -> None:
    model = llama()
    inputs = encoded("Hello")
    reference = weakref.ref(inputs["input_ids"])
    with pytest.raises(ValueError, match="no_such"):
        model.generate(**inputs, no_such=1)
    del inputs
    gc.collect()
    assert reference() is None
    assert not [each for each in gc.get_objects() if type(each) is Generation]


def test_observed_criteria_can_be_copied_and_pickled(instrumented: Recorder) -> None:
    kept: list[Any] = []

    original = GenerationMixin._sample

    def sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept.append(kwargs["stopping_criteria"])
        return original(self, *args, **kwargs)

    GenerationMixin._sample = sample
    try:
        llama().generate(**encoded("Hello"), **SAMPLED)
    finally:
        GenerationMixin._sample = original
    (criteria,) = kept
    for duplicate in (
        copy.copy(criteria),
        copy.deepcopy(criteria),
        pickle.loads(pickle.dumps(criteria)),
    ):
        assert type(duplicate) is StoppingCriteriaList
        assert [type(each) for each in duplicate] == [type(each) for each in criteria]
    assert criteria.max_length == duplicate.max_length


def test_internal_error_does_not_reach_application(
    instrumented: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    internal_errors.set_strict(False)
    model = llama()
    # Makes the description of the model fail.
    model.num_parameters = lambda: 1 / 0
    torch.manual_seed(7)
    output = model.generate(**encoded("Hello"), **SAMPLED)
    assert "llamatelemetry failed while describing a model" in caplog.text
    span = only(instrumented)
    assert span.attributes["gen_ai.usage.output_tokens"] == output.shape[1] - 5
    assert "llamatelemetry.model.parameter_count" not in span.attributes


def test_uninstrument_restores_library(instrument: Callable[..., Recorder]) -> None:
    methods = [
        (GenerationMixin, "generate"),
        (GenerationMixin, "_get_logits_processor"),
        (GenerationMixin, "_get_stopping_criteria"),
        (GenerationMixin, "_has_unfinished_sequences"),
        (Pipeline, "__call__"),
        (Pipeline, "forward"),
    ]
    before = [vars(owner)[name] for owner, name in methods]
    recorder = instrument()
    assert all(vars(o)[n] is not was for (o, n), was in zip(methods, before, strict=True))
    TransformersInstrumentor().uninstrument()
    assert [vars(owner)[name] for owner, name in methods] == before
    llama().generate(**encoded("Hello"), **SAMPLED)
    assert recorder.spans() == []


def test_library_inspects_patched_methods_as_before(
    instrument: Callable[..., Recorder],
) -> None:
    """Compare what the library inspects: it recognizes generative models by the text of methods."""

    def inspect_library() -> Any:
        kinds = (BertModel, BertForSequenceClassification, LlamaForCausalLM)
        return (
            [kind.can_generate() for kind in kinds],
            str(GenerationMixin.generate).partition(" at ")[0],
            inspect.signature(LlamaForCausalLM.generate),
            inspect.getsource(GenerationMixin._get_stopping_criteria),
        )

    bare = inspect_library()
    assert bare[0] == [False, False, True]
    instrument()
    assert inspect_library() == bare


def test_suppressed_call_is_not_recorded(instrumented: Recorder, tmp_path: Path) -> None:
    with suppress_instrumentation():
        llama().generate(**encoded("Hello"), **SAMPLED)
        make_pipeline("text-generation", tmp_path)("Hello", max_new_tokens=2)
        list(make_pipeline("text-classification", tmp_path)(text for text in ("a", "b")))
    assert instrumented.spans() == []
    assert instrumented.metrics() == {}


def test_span_is_current_while_model_runs_but_not_between_pulls(
    instrumented: Recorder, tmp_path: Path
) -> None:
    pipe = make_pipeline("text-classification", tmp_path)
    current: list[Any] = []
    forward = pipe.model.forward

    def seen(*args: Any, **kwargs: Any) -> Any:
        current.append(trace.get_current_span().get_span_context().span_id)
        return forward(*args, **kwargs)

    pipe.model.forward = seen
    for _ in pipe(text for text in ("a", "b")):
        assert not trace.get_current_span().get_span_context().is_valid
    assert current == [span.context.span_id for span in calls(instrumented)]

"""Pipelines for speech and images: names, and counts of text tokens only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Pipeline,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from tests.support.recorder import Recorder
from tests.support.transformers_models import BOS, EOS, PAD, VOCABULARY, llama, tokenizer
from tests.transformers_plugin.conftest import calls, only

MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}]}]


class CustomPipeline(Pipeline):
    """Pipeline class of an application, with a model that generates."""

    def _sanitize_parameters(self, **_: Any) -> Any:
        return {}, {}, {}

    def preprocess(self, inputs: Any, **_: Any) -> Any:
        encoded = tokenizer()(str(inputs), return_tensors="pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _forward(self, inputs: Any, **_: Any) -> Any:
        settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
        return {"tokens": self.model.generate(**inputs, **settings)}

    def postprocess(self, outputs: Any, **_: Any) -> Any:
        return [{"generated_text": str(outputs["tokens"].tolist())}]


@pytest.mark.parametrize(
    ("task", "inputs", "operation", "output_type"),
    [
        ("image-text-to-text", MESSAGES, "chat", "text"),
        ("image-text-to-text", "What is this?", "generate_content", "text"),
        ("image-to-text", "a picture", "generate_content", "text"),
        ("any-to-any", MESSAGES, "chat", None),
        ("automatic-speech-recognition", "a sound", "generate_content", "text"),
        ("text-to-audio", "Hello", "generate_content", "speech"),
        ("document-question-answering", "Who?", None, None),
        ("a-custom-task", "Hello", None, None),
    ],
)
def test_span_name_and_operation_depend_on_task(
    instrumented: Recorder, task: str, inputs: Any, operation: str | None, output_type: str | None
) -> None:
    model = llama()
    model.config._name_or_path = model.name_or_path = "org/tiny"
    pipe = CustomPipeline(model=model, tokenizer=tokenizer(), task=task, device="cpu")
    pipe(inputs)
    span = only(instrumented)
    assert span.name == f"{operation or task} org/tiny"
    assert span.attributes.get("gen_ai.operation.name") == operation
    assert span.attributes.get("gen_ai.output.type") == output_type
    assert span.attributes["llamatelemetry.task"] == task
    # Metrics need a named operation, span attributes do not.
    assert span.attributes["gen_ai.usage.output_tokens"] == 3
    assert span.attributes["gen_ai.prefill_ms"] > 0
    assert bool(instrumented.metrics()) == (operation is not None)


class TwoModelPipeline(CustomPipeline):
    """Pipeline that calls another model while it postprocesses."""

    def postprocess(self, outputs: Any, **_: Any) -> Any:
        llama().generate(torch.tensor([[BOS, 5]]), max_new_tokens=2, eos_token_id=None)
        return super().postprocess(outputs)


def test_generate_of_other_model_belongs_to_pipeline_call_but_not_to_pull(
    instrumented: Recorder,
) -> None:
    pipe = TwoModelPipeline(
        model=llama(), tokenizer=tokenizer(), task="text-generation", device="cpu"
    )
    pipe("Hello")
    assert only(instrumented).attributes["gen_ai.usage.output_tokens"] == 5
    instrumented.clear_spans()
    list(pipe(text for text in ["Hello"]))
    # During a pull, only `forward` belongs to the pipeline: the application's code may run there.
    assert sorted(
        span.attributes["gen_ai.usage.output_tokens"] for span in calls(instrumented)
    ) == [2, 3]


def test_sound_has_no_input_tokens_and_decoder_prompt_is_not_output(
    instrumented: Recorder,
) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=8,
        max_source_positions=50,
        max_target_positions=32,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config).eval()
    model.generate(
        torch.randn(1, 8, 100),
        decoder_input_ids=torch.tensor([[BOS, 5, 6]]),
        max_new_tokens=4,
        min_new_tokens=4,
        do_sample=False,
    )
    span = only(instrumented)
    assert span.attributes["gen_ai.operation.name"] == "generate_content"
    assert "gen_ai.usage.input_tokens" not in span.attributes
    assert "llamatelemetry.prompt_tokens" not in span.attributes
    assert span.attributes["gen_ai.usage.output_tokens"] == 4
    assert span.attributes["gen_ai.prefill_ms"] > 0


def test_image_text_to_text_counts_image_tokens(instrumented: Recorder) -> None:
    torch.manual_seed(0)
    image = VOCABULARY - 1
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
            projection_dim=16,
        ),
        text_config=LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
        image_token_index=image,
        image_seq_length=4,
    )
    model = LlavaForConditionalGeneration(config).eval()
    tokens = torch.tensor([[BOS, image, image, image, image, 9, 10]])
    model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        pixel_values=torch.randn(1, 3, 8, 8),
        max_new_tokens=3,
        eos_token_id=None,
        do_sample=False,
    )
    span = only(instrumented)
    assert span.name == "generate_content"
    # Including the four placeholder tokens of the image.
    assert span.attributes["gen_ai.usage.input_tokens"] == 7
    assert span.attributes["gen_ai.usage.output_tokens"] == 3

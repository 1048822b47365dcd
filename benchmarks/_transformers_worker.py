"""One contender of `compare_transformers.py`: a pipeline with a tiny model, instrumented or bare.

It reads numbers of tokens to generate from standard input, one per line. For each it prints the CPU
time of its thread in nanoseconds. It imports llamatelemetry only if that is the contender.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TextGenerationPipeline,
)


def instrument(name: str) -> None:
    """Enable a contender. The caller times its import and patching."""
    if name == "bare":
        return
    from _dropping import global_providers

    providers = global_providers()
    if name.startswith("llamatelemetry"):
        from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

        TransformersInstrumentor(record_events="events" in name).instrument(**providers)
    elif name == "openllmetry":
        from opentelemetry.instrumentation.transformers import (
            TransformersInstrumentor as OpenLLMetry,
        )

        OpenLLMetry().instrument(tracer_provider=providers["tracer_provider"])
    elif name == "openlit":
        _instrument_openlit(providers)


def _instrument_openlit(providers: dict[str, Any]) -> None:
    # `openlit.init` would fetch prices from the network.
    from openlit._config import OpenlitConfig
    from openlit.instrumentation.transformers import TransformersInstrumentor as Openlit
    from openlit.otel.metrics import setup_meter

    metrics, error = setup_meter("bench", "bench", None, None, None)
    assert error is None, error
    OpenlitConfig.reset_to_defaults()
    OpenlitConfig.metrics_dict = metrics
    Openlit().instrument(
        environment="bench",
        application_name="bench",
        tracer=providers["tracer_provider"].get_tracer("bench"),
        pricing_info={},
        capture_message_content=True,
        metrics_dict=metrics,
        disable_metrics=False,
    )


def _pipeline() -> TextGenerationPipeline:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    return TextGenerationPipeline(model=model, tokenizer=tokenizer, device="cpu")


def main() -> None:
    """Run turns until standard input ends."""
    torch.set_num_threads(1)
    import transformers.pipelines.text_generation  # noqa: F401 - imports the whole library before the clock starts

    started_ns = time.process_time_ns()
    instrument(sys.argv[1])
    print(time.process_time_ns() - started_ns, flush=True)
    pipe = _pipeline()
    for line in sys.stdin:
        tokens = int(line)
        settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        started_ns = time.thread_time_ns()
        for _ in range(3):
            pipe("Hello there", **settings)
        print((time.thread_time_ns() - started_ns) / 3, flush=True)


if __name__ == "__main__":
    main()

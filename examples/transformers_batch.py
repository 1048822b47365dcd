"""A batch job with a Transformers model in this process: one span for each batch.

The span of a batch has its number of texts, the tokens of each text, prefill and decode time, and
why generation ended. Nothing in the program refers to llamatelemetry.

    pip install llamatelemetry transformers torch
    llamatelemetry run -- python examples/transformers_batch.py HuggingFaceTB/SmolLM2-135M-Instruct
"""

import os
import sys
from collections.abc import Iterator

from transformers import pipeline

BATCH_SIZE = 4
PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")


def prompts() -> Iterator[str]:
    """Yield the inputs of the job, as from a file or a queue."""
    for planet in PLANETS:
        yield f"The planet {planet} is"


def main() -> None:
    """Generate a continuation of each input, in batches."""
    model = sys.argv[1] if len(sys.argv) > 1 else sys.exit("usage: transformers_batch.py MODEL")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    generate = pipeline("text-generation", model=model)
    if generate.tokenizer.pad_token_id is None:  # Batches need padding.
        generate.tokenizer.pad_token = generate.tokenizer.eos_token
    options = {"batch_size": BATCH_SIZE, "max_new_tokens": 12, "do_sample": False}
    for number, [result] in enumerate(generate(prompts(), **options), start=1):
        print(f"{number} {' '.join(result['generated_text'].split())}", flush=True)


if __name__ == "__main__":
    main()

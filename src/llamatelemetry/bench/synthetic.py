"""Prompts that mean nothing and have just the length they should have, in tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llamatelemetry.llama import LlamaCppClient

_WORDS: Final = tuple(
    """
    time year people way day man thing woman life child world school state family student group
    country problem hand part place case week company system program question work number night
    point home water room mother area money story fact month lot right study book eye job word
    business issue side kind head house service friend father power hour game line end member
    law car city name team minute idea body back parent face level office door health person art
    war history party result change morning reason research girl guy moment air teacher force
    """.split()  # noqa: SIM905 - read more easily so
)
# One token each with nearly every tokenizer, for the last few.
_FILLERS: Final = (" a", " the", " of", " in", " .", " ,", "\n", "a", "1")
_ATTEMPTS: Final = 12


def synthetic_prompts(
    tokenizer: LlamaCppClient | Callable[[str], int],
    count: int,
    input_tokens: int,
    *,
    seed: int = 0,
) -> list[str]:
    """Make prompts that are exactly so long, as the model sees them: chat template included.

    No two begin with the same words, so that a prompt cache finds nothing of one in another.

    Args:
        tokenizer: a client of the llama.cpp server that is to be measured; or a function that
            gives the number of tokens a prompt becomes.
        count: how many.
        input_tokens: length of each.
        seed: for other words.

    Raises:
        ValueError: the chat template alone is longer than that, or the length cannot be met.
    """
    if count < 1 or input_tokens < 1:
        raise ValueError(f"count and input_tokens must be over 0, not {count} and {input_tokens}")
    length_of = tokenizer if callable(tokenizer) else _counter(tokenizer)
    rng = random.Random(seed)  # noqa: S311 - no secret
    return [_prompt(length_of, input_tokens, rng) for _ in range(count)]


def _counter(client: LlamaCppClient) -> Callable[[str], int]:
    def length_of(text: str) -> int:
        prompt = client.apply_template([{"role": "user", "content": text}])
        return len(client.tokenize(prompt, add_special=True))

    return length_of


def _prompt(length_of: Callable[[str], int], wanted: int, rng: random.Random) -> str:
    first = rng.choice(_WORDS)
    least = length_of(first)
    if least > wanted:
        raise ValueError(
            f"a prompt of {wanted} tokens is not possible: with its chat template a single word "
            f"is {least} already"
        )
    words = [first, *rng.choices(_WORDS, k=wanted - least)]
    for _ in range(_ATTEMPTS):
        excess = length_of(" ".join(words)) - wanted
        if excess == 0:
            return " ".join(words)
        if excess < 0:
            words += rng.choices(_WORDS, k=-excess)
        elif len(words) > excess:
            del words[len(words) - excess :]
        else:
            break
    return _filled(length_of, words, wanted)


def _filled(length_of: Callable[[str], int], words: list[str], wanted: int) -> str:
    """Where whole words never meet the length: fewer of them, and small pieces behind."""
    while len(words) > 1 and length_of(" ".join(words)) > wanted:
        words.pop()
    text = " ".join(words)
    while (missing := wanted - length_of(text)) > 0:
        fitting = (text + filler for filler in _FILLERS)
        longer = next((each for each in fitting if length_of(each) == wanted - missing + 1), None)
        if longer is None:
            break
        text = longer
    if length_of(text) != wanted:
        raise ValueError(f"this tokenizer makes no prompt of exactly {wanted} tokens of our words")
    return text

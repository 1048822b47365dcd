"""Token counts and finish causes, read from the tensors before and after a generation.

They are read after the generation, when there is no more GPU work to wait for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from llamatelemetry.genai import as_int, as_list

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

EOS: Final = "eos"
LENGTH: Final = "length"
STOP_STRING: Final = "stop_string"
TIME: Final = "time"
CRITERIA: Final = "criteria"

# Causes that cut a text off. All others complete it.
_REASONS: Final = {LENGTH: "length", TIME: "length"}

_NON_TEXT_INPUTS: Final = (
    "input_features",
    "input_values",
    "pixel_values",
    "pixel_values_videos",
    "past_values",
)

# Steps whose flags are kept before they are reduced to one number per row.
_BATCH: Final = 256


def finish_reason(cause: str) -> str:
    """Return the conventions' finish reason of a cause: `stop`, or why the text was cut off."""
    return _REASONS.get(cause, "stop")


class Row(NamedTuple):
    """One sequence of the result: its number of new tokens, and why it ended."""

    tokens: int
    cause: str | None


class EndedRows:
    """The step at which each row ended, according to the stopping criteria.

    The flags stay on their device until they are read, one byte per row and step.
    """

    def __init__(self) -> None:
        self._flags: list[Any] = []
        self._steps = 0
        self._ended_at: Any = None

    def add(self, is_done: Any) -> None:
        """Add the flags of one step."""
        self._flags.append(is_done)
        if len(self._flags) >= _BATCH:
            self._reduce()

    def _reduce(self) -> None:
        if not self._flags:
            return
        torch: Any = sys.modules["torch"]
        flags = torch.stack(self._flags).int()
        # Steps count from 1. Unfinished rows get a number beyond the last step.
        first = flags.argmax(0) + 1 + self._steps
        ended_at = torch.where(flags.any(0), first, sys.maxsize)
        if self._ended_at is not None:
            ended_at = torch.minimum(self._ended_at, ended_at)
        self._ended_at, self._steps, self._flags = ended_at, self._steps + len(self._flags), []

    def read(self, longest: int) -> list[int]:
        """Return the tokens of each row, at most `longest`."""
        self._reduce()
        return [] if self._ended_at is None else [min(n, longest) for n in self._ended_at.tolist()]


def token_ids(value: Any) -> tuple[int, ...]:
    """Return the token ids of a setting that is one id, several or a tensor."""
    if value is None:
        return ()
    if hasattr(value, "tolist"):
        value = value.tolist()
    return (value,) if isinstance(value, int) else tuple(value)


def read_rows(
    sequences: Any,
    prefix: int,
    config: Any,
    criteria: Sequence[Any] | None,
    ended: EndedRows | None,
) -> list[Row]:
    """Return the rows of a result.

    Args:
        sequences: Returned rows of token ids.
        prefix: Number of prompt tokens that each row starts with.
        config: Generation settings. Without them, no cause is known.
        criteria: Stopping criteria of the loop.
        ended: Steps at which the rows ended, if the rows do not show it.
    """
    longest = max(0, sequences.shape[-1] - prefix)
    eos = token_ids(getattr(config, "eos_token_id", None))
    # One row ends with the loop. A step of assisted generation may add several tokens to it.
    counts = [] if ended is None or len(sequences) == 1 else ended.read(longest)
    if len(counts) != len(sequences):
        counts = _count_to_eos(sequences, prefix, eos, config)
    if config is None:
        return [Row(count, None) for count in counts]
    return [
        Row(count, _cause(sequences[index], prefix + count, config, eos, criteria or ()))
        for index, count in enumerate(counts)
    ]


def _count_to_eos(sequences: Any, prefix: int, eos: tuple[int, ...], config: Any) -> list[int]:
    rows, longest = len(sequences), max(0, sequences.shape[-1] - prefix)
    has_beams = (getattr(config, "num_beams", None) or 1) > 1
    if longest == 0 or (rows == 1 and not has_beams):
        return [longest] * rows
    pad = getattr(config, "pad_token_id", None)
    counts: list[int] = []
    for row in sequences[:, prefix:].tolist():
        end = next((at + 1 for at, token in enumerate(row) if token in eos), None)
        if end is None:
            # A beam that a criterion ended is padded without its last token. Elsewhere, padding
            # without such a token is output of the model.
            end = _without_padding(row, pad) if has_beams else longest
        counts.append(end)
    return counts


def _without_padding(row: Sequence[int], pad: int | None) -> int:
    return length_without(row, () if pad is None else (pad,))


def length_without(row: Sequence[int], padding: Collection[int]) -> int:
    """Return the length of a row without padding at its end."""
    length = len(row)
    while length and row[length - 1] in padding:
        length -= 1
    return length


def padding_of(config: Any) -> tuple[int, ...]:
    """Return the token that pads rows. `generate` uses the first end-of-text token by default."""
    pad = token_ids(getattr(config, "pad_token_id", None))
    return pad or token_ids(getattr(config, "eos_token_id", None))[:1]


def count_rows(sequences: Any, prefix: int, config: Any) -> list[int] | None:
    """Return the new tokens of each row of a loop that was not observed; `None` if unknown."""
    if len(sequences) > 1 and not token_ids(getattr(config, "eos_token_id", None)):
        return None
    return _count_to_eos(
        sequences, prefix, token_ids(getattr(config, "eos_token_id", None)), config
    )


def _cause(
    row: Any, length: int, config: Any, eos: tuple[int, ...], criteria: Sequence[Any]
) -> str | None:
    if length and int(row[length - 1]) in eos:
        return EOS
    by_name = {type(each).__name__: each for each in criteria}
    stop_strings = by_name.get("StopStringCriteria")
    # It has no state, so calling it again has no effect. A custom criterion may have one.
    if stop_strings is not None and bool(stop_strings(row[None, :length], None)):
        return STOP_STRING
    max_length = config.max_length
    if max_length is not None and length >= max_length:
        return LENGTH
    others = by_name.keys() - {
        "MaxLengthCriteria",
        "EosTokenCriteria",
        "StopStringCriteria",
        "MaxTimeCriteria",
    }
    if others:
        return CRITERIA
    return TIME if "MaxTimeCriteria" in by_name else None


def rows_of(kwargs: Mapping[str, Any]) -> int | None:
    """Return the number of prompts."""
    prompts = prompts_of(kwargs)
    return None if prompts is None or not prompts.ndim else len(prompts)


def has_non_text_input(kwargs: Mapping[str, Any]) -> bool:
    """Return whether a model receives sound, images or a series of numbers."""
    return any(kwargs.get(name) is not None for name in _NON_TEXT_INPUTS)


def prompts_of(kwargs: Mapping[str, Any]) -> Any:
    """Return the tensor with the prompts, as token ids or embedded; `None` if there is none."""
    for name in ("inputs", "input_ids", "inputs_embeds"):
        prompts = kwargs.get(name)
        if prompts is not None:
            return prompts if hasattr(prompts, "is_floating_point") else None
    return None


def count_prompt(
    kwargs: Mapping[str, Any], config: Any, prefix: int | None, end: int | None = None
) -> list[int] | None:
    """Return the number of tokens of each prompt without padding, up to position `end`.

    It is `None` if unknown: sound and images that are passed as such are not tokens. `prefix` is
    the number of tokens that each row of the result starts with.
    """
    prompts = prompts_of(kwargs)
    if prompts is None:
        return None if has_non_text_input(kwargs) or not prefix else [len(range(prefix)[:end])]
    embedded = prompts.is_floating_point()
    if prompts.ndim != (3 if embedded else 2) or (embedded and "inputs_embeds" not in kwargs):
        return None
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.ndim == 2 and len(mask) == len(prompts):
        return [int(count) for count in mask[:, :end].sum(-1).tolist()]
    prompts = prompts[:, :end]
    pad = getattr(config, "pad_token_id", None)
    # `generate` infers a mask in the same way: padding that may also end a text counts as text.
    if embedded or pad is None or pad in token_ids(getattr(config, "eos_token_id", None)):
        return [prompts.shape[1]] * len(prompts)
    return [int(count) for count in (prompts != pad).sum(-1).tolist()]


# Other caches search for the end of their content on the device, which would wait for it.
_COUNTED_CACHES: Final = frozenset({"DynamicCache", "QuantizedCache"})


def cached_length(kwargs: Mapping[str, Any]) -> int | None:
    """Return how many positions of each prompt are in the cache that the caller passed.

    It is `None` without a cache, or if its length is unknown or expensive to read. transformers
    5.24 renamed the argument `past_key_values` to `cache` and prefers the new name.
    """
    lengths = (_length(kwargs.get(name)) for name in ("cache", "past_key_values"))
    return next((length for length in lengths if length is not None), None)


def _length(cache: Any) -> int | None:
    if isinstance(cache, tuple):
        return _legacy_length(cast("tuple[Any, ...]", cache))
    if _COUNTED_CACHES.isdisjoint(kind.__name__ for kind in type(cache).__mro__):
        return None
    try:
        return as_int(cache.get_seq_length())
    except ValueError:  # The cache has only layers of linear attention, without positions.
        return None


def _legacy_length(layers: tuple[Any, ...]) -> int | None:
    """Return the length of a cache of transformers 4: keys and values of each layer.

    Layers of encoder-decoder models have two more tensors, for the encoder's output.
    """
    first = as_list(layers[0]) if layers else ()
    return as_int(first[1].shape[-2]) if len(first) == 2 else None

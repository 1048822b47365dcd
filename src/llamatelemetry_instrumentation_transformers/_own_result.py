"""Token counts of the result of a `generate` that a model's class defines itself.

Such a method may return anything: what a part of the model has generated, a selection of it, a
recording, or a picture. The tokens are counted only where it is certain which of the returned ids
are new tokens:

1. The result is that of a part, perhaps after a start token, or each of its rows is a row of a
   part.
2. A loop of transformers ran in the method itself and returned the result.
3. The result starts with the prompt.
4. The model is Whisper, which returns transcripts and padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from llamatelemetry.genai import get_field
from llamatelemetry_instrumentation_transformers._counting import (
    Row,
    count_rows,
    length_without,
    padding_of,
    prompts_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llamatelemetry_instrumentation_transformers._generation import Generation


class OwnResult(NamedTuple):
    """New tokens of a result.

    Attributes:
        sequences: Rows of token ids.
        rows: Tokens and finish cause of each row.
        starts: Index of the first new token of each row.
        part: The part that returned exactly this result.
    """

    sequences: Any
    rows: list[Row]
    starts: list[int]
    part: Generation | None = None


def token_rows(result: Any) -> Any:
    """Return the rows of token ids in a result: a tensor with two dimensions, or `None`."""
    several = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else (result,)
    for each in several:
        rows = each if hasattr(each, "shape") else get_field(each, "sequences")
        if getattr(rows, "ndim", 0) == 2 and not (rows.is_floating_point() or rows.is_complex()):
            return rows
    return None


def read_own_result(
    run: Generation, model: Any, result: Any, kwargs: Mapping[str, Any]
) -> OwnResult | None:
    """Return the new tokens of a result, or `None` if they are unknown."""
    sequences = token_rows(result)
    if sequences is None:
        return None
    found = _of_part(sequences, run.parts) or _of_loop(sequences, run)
    if found is None:
        config = getattr(model, "generation_config", None)
        found = _after_prompt(sequences, kwargs, config)
        found = found or _of_whisper(sequences, run, model, config)
    return found


def _of_part(sequences: Any, parts: Sequence[Generation]) -> OwnResult | None:
    """Return the tokens of a result whose rows are rows of the parts."""
    for part in parts:
        if part.sequences is sequences and part.rows is not None:
            return OwnResult(sequences, part.rows, part.starts, part)
        added = _added_before(sequences, part.sequences)
        if added and part.rows is not None:
            return OwnResult(sequences, part.rows, [start + added for start in part.starts])
    padding = {token for part in parts for token in part.padding}
    known: dict[tuple[int, ...], tuple[int, Row] | None] = {}
    for content, start, row in _rows_of(parts):
        key = content[: length_without(content, padding)]
        # Rows that differ only in padding have the same key. Their tokens are unknown.
        known[key] = (start, row) if known.get(key, (start, row)) == (start, row) else None
    if not known:
        return None
    contents = [tuple(row) for row in sequences.tolist()]
    matches = [known.get(row[: length_without(row, padding)]) for row in contents]
    found = [match for match in matches if match is not None]
    if not found or len(found) < len(matches):
        return None
    return OwnResult(sequences, [row for _, row in found], [start for start, _ in found])


def _added_before(sequences: Any, part: Any) -> int:
    """Return how many tokens a result has before the rows of a part; 0 if it is something else.

    Before version 4.47, BLIP-2 returns a start token and then what the language model returned.
    """
    if part is None or len(part) != len(sequences):
        return 0
    added = sequences.shape[1] - part.shape[1]
    return added if added > 0 and sequences[:, added:].equal(part.to(sequences)) else 0


def _rows_of(parts: Sequence[Generation]) -> Iterator[tuple[tuple[int, ...], int, Row]]:
    """Yield the content of each row of the parts, with and without the prompt."""
    for part in parts:
        if part.rows is None or part.sequences is None:
            continue
        for ids, start, row in zip(part.sequences.tolist(), part.starts, part.rows, strict=True):
            content = tuple(ids[: start + row.tokens])
            yield content, start, row
            if start:
                yield content[start:], 0, row


def _of_loop(sequences: Any, run: Generation) -> OwnResult | None:
    """Return the tokens of a result of the loop that ran in the method itself."""
    # Beams may end before the last step.
    is_result = sequences.shape[-1] == run.length or (
        sequences.shape[-1] < run.length and (getattr(run.config, "num_beams", 0) or 1) > 1
    )
    if run.parts or run.config is None or run.prefix_tokens is None or not is_result:
        return None
    rows = run.read_loop(sequences)
    return OwnResult(sequences, rows, [run.prefix_tokens] * len(rows))


def _after_prompt(sequences: Any, kwargs: Mapping[str, Any], config: Any) -> OwnResult | None:
    """Return the tokens after the prompt, if each row starts with its prompt."""
    prompts = prompts_of(kwargs)
    is_text = getattr(prompts, "ndim", 0) == 2 and not prompts.is_floating_point()
    if not is_text or len(prompts) != len(sequences):
        return None
    length = prompts.shape[1]
    if not length or not sequences[:, :length].equal(prompts.to(sequences)):
        return None
    counts = count_rows(sequences, length, config)
    if counts is None:
        return None
    return OwnResult(sequences, [Row(count, None) for count in counts], [length] * len(counts))


def _of_whisper(sequences: Any, run: Generation, model: Any, config: Any) -> OwnResult | None:
    """Return the tokens of a transcript: its rows without padding, and without the start tokens.

    Versions before 4.47 return the start tokens of the decoder with a short transcript.
    """
    if all(kind.__name__ != "WhisperGenerationMixin" for kind in type(model).__mro__):
        return None
    padding = padding_of(config) if len(sequences) > 1 else ()
    first = next((part for part in run.parts if part.sequences is not None), None)
    prefix = 0 if first is None else first.prefix_tokens or 0
    start_tokens: list[list[int]] = []
    if first is not None:
        start_tokens = first.sequences[:, :prefix].tolist()
    ids: list[list[int]] = sequences.tolist()
    starts = [prefix if row[:prefix] in start_tokens else 0 for row in ids]
    counts = [length_without(row, padding) - start for row, start in zip(ids, starts, strict=True)]
    return OwnResult(sequences, [Row(count, None) for count in counts], starts)

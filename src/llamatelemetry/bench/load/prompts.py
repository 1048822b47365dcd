"""Prompts of a benchmark: given by the caller, read from a file, or synthetic."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.instrumentation.utils import suppress_instrumentation

from llamatelemetry.bench.load.schedule import checked_integer
from llamatelemetry.bench.load.token_counts import TokenCounter, token_counter
from llamatelemetry.genai import as_list

if TYPE_CHECKING:
    from llamatelemetry.bench.load.token_counts import LengthOf
    from llamatelemetry.llama import LlamaCppClient

Message = Mapping[str, Any]

_ROLES: Final = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "bing", "chatgpt"), "assistant"),
    "system": "system",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Consecutive turns of a chat. A single prompt is a conversation of one turn.

    Each turn holds the messages to add before the next request. The responses that the model
    returned during the benchmark are inserted between the turns.

    Attributes:
        turns: Messages of each turn.
        max_tokens: Maximum number of output tokens per response; the runner's value if `None`.

    Examples:
        >>> from llamatelemetry.bench import Conversation
        >>> conversation = Conversation.of_texts("Name a color.", "Another one.", max_tokens=8)
        >>> conversation.turns[1]
        ({'role': 'user', 'content': 'Another one.'},)
    """

    turns: tuple[tuple[Message, ...], ...]
    max_tokens: int | None = None

    @classmethod
    def of_texts(cls, *texts: str, max_tokens: int | None = None) -> Conversation:
        """Create a conversation from the texts of the user, one for each turn.

        Args:
            *texts: Text of each turn.
            max_tokens: Maximum number of output tokens per response; the runner's value if `None`.
        """
        turns = tuple(({"role": "user", "content": text},) for text in texts)
        return cls(turns, max_tokens)


Prompt = str | Sequence[Message] | Conversation


def as_conversations(prompts: Iterable[Prompt] | str) -> list[Conversation]:
    """Convert texts, message lists and conversations to conversations.

    Raises:
        ValueError: There are no prompts, or one of them is empty.
        TypeError: A prompt has another type.
    """
    kind: type[Any] = type(prompts)
    if issubclass(kind, (Mapping, Conversation)):
        raise TypeError(f"prompts must be a list of prompts, got a {kind.__name__}")
    given = [prompts] if isinstance(prompts, str) else list(prompts)
    if not given:
        raise ValueError("prompts must contain at least one text, message list or Conversation")
    return [_as_conversation(prompt, number) for number, prompt in enumerate(given)]


def _as_conversation(prompt: Any, number: int) -> Conversation:
    if isinstance(prompt, str):
        prompt = Conversation.of_texts(prompt)
    elif isinstance(prompt, (list, tuple)):
        messages = tuple(cast("Sequence[Any]", prompt))
        if not all(isinstance(message, dict) and "role" in message for message in messages):
            raise TypeError(f"prompt {number} must be a list of messages that have a role")
        prompt = Conversation((messages,))
    if not isinstance(prompt, Conversation):
        raise TypeError(
            f"prompt {number} must be a text, a message list or a Conversation, "
            f"got {type(prompt).__name__}"
        )
    has_blank_message = any(
        message.get("content") == "" for turn in prompt.turns for message in turn
    )
    if not prompt.turns or not all(prompt.turns) or has_blank_message:
        raise ValueError(f"prompt {number} is empty")
    if prompt.max_tokens is not None:
        checked_integer(f"max_tokens of prompt {number}", prompt.max_tokens, 1)
    return prompt


def rotate(conversations: Sequence[Conversation], requests: int) -> Iterator[tuple[int, int]]:
    """Yield positions of conversations in rotation, and the number of turns to run of each.

    The turns add up to the number of requests.
    """
    for number in cycle(range(len(conversations))):
        turns = min(len(conversations[number].turns), requests)
        if turns == 0:
            return
        yield number, turns
        requests -= turns


def load_prompts(path: str | Path, *, multi_turn: bool = False) -> list[Conversation]:
    r"""Read prompts from a JSON, JSON Lines or text file.

    | Content of the file, or of each line of a `.jsonl` file | Result                       |
    |----------------------------------------------------------|------------------------------|
    | `[{"conversations": [{"from": "human", "value": ...`     | ShareGPT: first or all turns |
    | `{"messages": [{"role": "user", "content": ...`          | OpenAI: first or all turns   |
    | `{"prompt": "...", "max_tokens": 64}`                    | one turn                     |
    | `"..."`                                                  | one turn                     |
    | text that is not JSON                                    | one turn per line            |

    In a `.json` or `.jsonl` file, a line that begins as an object or a list must be JSON.

    Args:
        path: Path of the file.
        multi_turn: Keep all turns of a conversation instead of only the first.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file contains no prompts, or invalid JSON.

    Examples:
        >>> from pathlib import Path
        >>> from llamatelemetry.bench import load_prompts
        >>> number = Path("prompts.jsonl").write_text('{"prompt": "Hello", "max_tokens": 8}\n"Why?"\n')
        >>> [(each.turns[0][0]["content"], each.max_tokens) for each in load_prompts("prompts.jsonl")]
        [('Hello', 8), ('Why?', None)]
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8-sig")  # Windows programs write a byte order mark.
    items = _items(text, path if path.suffix.lower() in {".json", ".jsonl"} else None)
    found = [each for item in items if (each := _parse_item(item, multi_turn)) is not None]
    if not found:
        raise ValueError(f"{path} must contain texts, or conversations as JSON; found no prompts")
    return found


def _items(text: str, json_path: Path | None) -> Iterator[Any]:
    try:
        whole = json.loads(text)
    except ValueError as not_whole:
        # Not `splitlines()`: strings of JSON may contain other line separators, such as U+2028.
        for number, line in enumerate(text.split("\n"), 1):
            try:
                if line.strip():
                    yield json.loads(line)
            except ValueError as error:
                if json_path is not None and line.lstrip().startswith(("{", "[")):
                    raise ValueError(
                        f"{json_path} must be JSON ({not_whole}) or lines of JSON "
                        f"(line {number}: {error})"
                    ) from error
                yield line.strip()
    else:
        yield from cast("list[Any]", whole) if isinstance(whole, list) else [whole]


def _parse_item(item: Any, multi_turn: bool) -> Conversation | None:
    if isinstance(item, (int, float)):
        # A line of plain text can be a number, which is also valid JSON.
        item = str(item)
    if isinstance(item, str):
        return Conversation.of_texts(item) if item.strip() else None
    if not isinstance(item, dict):
        return None
    fields = cast("dict[str, Any]", item)
    limit = fields.get("max_tokens")
    max_tokens = limit if isinstance(limit, int) and limit > 0 else None
    prompt = fields.get("prompt", fields.get("text"))
    if isinstance(prompt, str) and prompt.strip():
        return Conversation.of_texts(prompt, max_tokens=max_tokens)
    turns = _split_turns(as_list(fields.get("messages") or fields.get("conversations")))
    if not turns:
        return None
    return Conversation(tuple(turns if multi_turn else turns[:1]), max_tokens)


def _split_turns(messages: Any) -> list[tuple[Message, ...]]:
    """Split a conversation at its assistant messages, which the model generates itself."""
    known = filter(None, map(_parse_message, messages))
    groups = groupby(known, lambda message: message["role"] == "assistant")
    turns = [tuple(group) for is_assistant, group in groups if not is_assistant]
    return [turn for turn in turns if any(message["role"] == "user" for message in turn)]


def _parse_message(message: Any) -> Message | None:
    if not isinstance(message, dict):
        return None
    fields = cast("dict[str, Any]", message)
    role = _ROLES.get(str(fields.get("role") or fields.get("from")))
    content = fields.get("content") or fields.get("value")
    return {"role": role, "content": content} if role and content else None


_WORDS: Final = tuple(
    """
    time year people way day man thing woman life child world school state family student group
    country problem hand part place case week company system program question work number night
    point home water room mother area money story fact month lot right study book eye job word
    business issue side kind head house service friend father power hour game line end member
    law car city name team minute idea body back parent face level office door health person art
    war history party result change morning reason research girl guy moment air teacher force
    """.split()  # noqa: SIM905 - easier to read than a list
)
# Nearly every tokenizer encodes each of these as one token.
_FILLERS: Final = (" a", " the", " of", " in", " .", " ,", "\n", "a", "1")
_MAX_ATTEMPTS: Final = 12


class SyntheticPrompts(list[str]):
    """Synthetic prompts, and how their number of input tokens was found.

    Attributes:
        input_tokens: Wanted number of input tokens of each prompt.
        counted_by: How the tokens were counted, in words.
    """

    def __init__(self, prompts: Iterable[str], input_tokens: int, counted_by: str) -> None:
        super().__init__(prompts)
        self.input_tokens = input_tokens
        self.counted_by = counted_by


def synthetic_prompts(
    tokenizer: LlamaCppClient | Callable[[str], int] | Any,
    count: int,
    input_tokens: int,
    *,
    seed: int = 0,
    model: str | None = None,
) -> SyntheticPrompts:
    """Create prompts of random words with a given number of input tokens.

    The length includes the chat template. The first words differ, so that prompts do not share
    a prefix in the prompt cache. The number is exact if the server counts tokens, as llama.cpp and
    vLLM do. It is estimated for other servers; the results contain the numbers that they report.

    Args:
        tokenizer: Client of the server under test, `LlamaCppClient` or a client of the openai
            library, or a function that returns the number of input tokens of a prompt.
        count: Number of prompts.
        input_tokens: Length of each prompt, in tokens.
        seed: Random seed that selects the words.
        model: Model name for requests to the server; the first one that it lists if `None`.

    Raises:
        ValueError: The chat template alone is longer, or the exact length cannot be reached.

    Examples:
        >>> from llamatelemetry.bench import synthetic_prompts
        >>> prompts = synthetic_prompts(lambda text: len(text.split()), count=3, input_tokens=16)
        >>> [len(prompt.split()) for prompt in prompts]
        [16, 16, 16]
    """
    if count < 1 or input_tokens < 1:
        raise ValueError(
            f"count and input_tokens must be greater than 0, got {count} and {input_tokens}"
        )
    rng = random.Random(seed)  # noqa: S311 - no secret
    with ExitStack() as stack:
        stack.enter_context(suppress_instrumentation())
        if callable(tokenizer):
            counter = TokenCounter("counted by a function", cast("LengthOf", tokenizer))
        else:
            words = [*islice(cycle(_WORDS), input_tokens)]
            counter = stack.enter_context(token_counter(tokenizer, model, words))
        make = _synthetic_prompt if counter.length_of else _estimated_prompt
        found = [make(counter, input_tokens, rng) for _ in range(count)]
    return SyntheticPrompts(found, input_tokens, counter.method)


def _estimated_prompt(counter: TokenCounter, target: int, rng: random.Random) -> str:
    _check_minimum(counter.one_word, target)
    return " ".join(rng.choices(_WORDS, k=counter.words_for(target)))


def _check_minimum(minimum: int, target: int) -> None:
    if minimum > target:
        raise ValueError(
            f"input_tokens must be at least {minimum}, the chat template and one word; got {target}"
        )


def _synthetic_prompt(counter: TokenCounter, target: int, rng: random.Random) -> str:
    length_of = cast("LengthOf", counter.length_of)
    first = rng.choice(_WORDS)
    minimum = length_of(first)
    _check_minimum(minimum, target)
    words = [first, *rng.choices(_WORDS, k=target - minimum)]
    for _ in range(_MAX_ATTEMPTS):
        excess = length_of(" ".join(words)) - target
        if excess == 0:
            return " ".join(words)
        if excess < 0:
            words += rng.choices(_WORDS, k=-excess)
        elif len(words) > excess:
            del words[len(words) - excess :]
        else:
            break
    return _pad_with_fillers(length_of, words, target)


def _pad_with_fillers(length_of: Callable[[str], int], words: list[str], target: int) -> str:
    """Drop words, then append one-token fillers, for a length that whole words cannot reach."""
    while len(words) > 1 and length_of(" ".join(words)) > target:
        words.pop()
    text = " ".join(words)
    while (missing := target - length_of(text)) > 0:
        candidates = (text + filler for filler in _FILLERS)
        wanted = target - missing + 1
        longer = next((each for each in candidates if length_of(each) == wanted), None)
        if longer is None:
            break
        text = longer
    if length_of(text) != target:
        raise ValueError(f"cannot create a prompt of exactly {target} tokens with this tokenizer")
    return text

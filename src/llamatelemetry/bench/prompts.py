"""What is asked: single prompts, conversations of several turns, and files of either."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

Message = Mapping[str, Any]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that follow upon one another; a single prompt is a conversation of one turn.

    Each turn holds the messages that are added before the model is asked again. Its own earlier
    answers are put between them, as they really were.

    Attributes:
        turns: messages of each turn.
        max_tokens: how long each answer is to be, if not as long as the runner says.
    """

    turns: tuple[tuple[Message, ...], ...]
    max_tokens: int | None = None

    @classmethod
    def of_texts(cls, *texts: str, max_tokens: int | None = None) -> Conversation:
        """Make one of the user's words alone: ``Conversation.of_texts("Hello", "And then?")``."""
        return cls(tuple((_user(text),) for text in texts), max_tokens)


Prompt = str | Sequence[Message] | Conversation


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def as_conversations(prompts: Iterable[Prompt] | str) -> list[Conversation]:
    """Read what a caller gives as prompts: texts, lists of messages, conversations.

    Raises:
        ValueError: there are none, or one of them is empty.
        TypeError: one of them is something else.
    """
    given = [prompts] if isinstance(prompts, str) else list(prompts)
    if not given:
        raise ValueError("no prompts: give at least one text, list of messages or Conversation")
    return [_conversation(prompt, number) for number, prompt in enumerate(given)]


def _conversation(prompt: Any, number: int) -> Conversation:
    if isinstance(prompt, str):
        prompt = Conversation.of_texts(prompt)
    elif isinstance(prompt, (list, tuple)):
        messages = tuple(cast("Sequence[Any]", prompt))
        if not all(isinstance(message, dict) and "role" in message for message in messages):
            raise TypeError(f"prompt {number} is no list of messages, which have a role each")
        prompt = Conversation((messages,))
    if not isinstance(prompt, Conversation):
        raise TypeError(
            f"prompt {number} is {type(prompt).__name__}; accepted: text, messages, Conversation"
        )
    if not prompt.turns or not all(prompt.turns) or _is_blank(prompt):
        raise ValueError(f"prompt {number} is empty")
    return prompt


def _is_blank(conversation: Conversation) -> bool:
    return any(message.get("content") == "" for turn in conversation.turns for message in turn)


def in_turn(conversations: Sequence[Conversation], requests: int) -> Iterator[tuple[int, int]]:
    """Give the conversations to hold, as positions and turns, until there are so many requests."""
    position = 0
    while requests > 0:
        number = position % len(conversations)
        turns = min(len(conversations[number].turns), requests)
        yield number, turns
        requests -= turns
        position += 1


def load_prompts(path: str | Path, *, multi_turn: bool = False) -> list[Conversation]:
    """Read prompts from a file.

    ==========================================================  =============================
    the file, or each line of a ``.jsonl`` file                 what it becomes
    ==========================================================  =============================
    ``[{"conversations": [{"from": "human", "value": ...``      ShareGPT: the first words of
                                                                the person, or all turns
    ``{"messages": [{"role": "user", "content": ...``           OpenAI's form, likewise
    ``{"prompt": "...", "max_tokens": 64}``                     one turn
    ``"..."``                                                   one turn
    anything that is no JSON                                    one turn for each line
    ==========================================================  =============================

    Args:
        path: of the file.
        multi_turn: keep the turns of conversations, instead of the first one alone.

    Raises:
        OSError: the file cannot be read.
        ValueError: there are no prompts in it.
    """
    text = Path(path).read_text(encoding="utf-8")
    found = [each for item in _items(text) if (each := _read(item, multi_turn)) is not None]
    if not found:
        raise ValueError(f"{path} holds no prompts: expected texts, or conversations as JSON")
    return found


def _items(text: str) -> Iterator[Any]:
    try:
        whole = json.loads(text)
    except ValueError:
        for line in filter(str.strip, text.splitlines()):
            try:
                yield json.loads(line)
            except ValueError:
                yield line.strip()
    else:
        yield from cast("list[Any]", whole) if isinstance(whole, list) else [whole]


def _read(item: Any, multi_turn: bool) -> Conversation | None:
    if isinstance(item, (int, float)):
        item = str(item)  # a line that happens to be a number
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
    turns = _turns(fields.get("messages") or fields.get("conversations") or [])
    if not turns:
        return None
    return Conversation(tuple(turns if multi_turn else turns[:1]), max_tokens)


def _turns(messages: Any) -> list[tuple[Message, ...]]:
    """Cut a conversation where its answers were; those are the model's to give."""
    turns: list[tuple[Message, ...]] = []
    pending: list[Message] = []
    for message in map(_message, messages):
        if message is None:
            continue
        if message["role"] == "assistant":
            if pending:
                turns.append(tuple(pending))
            pending = []
        else:
            pending.append(message)
    if pending:
        turns.append(tuple(pending))
    return [turn for turn in turns if any(message["role"] == "user" for message in turn)]


def _message(message: Any) -> Message | None:
    if not isinstance(message, dict):
        return None
    fields = cast("dict[str, Any]", message)
    role = _ROLES.get(str(fields.get("role") or fields.get("from")))
    content = fields.get("content") or fields.get("value")
    return {"role": role, "content": content} if role and content else None

"""What can be asked: files, lists, and synthetic prompts of exact lengths."""

from __future__ import annotations

import json

import pytest

from llamatelemetry.bench import Conversation, load_prompts, synthetic_prompts
from llamatelemetry.bench.prompts import as_conversations

SHAREGPT = [
    {
        "id": "a",
        "conversations": [
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hi"},
            {"from": "human", "value": "And then?"},
            {"from": "gpt", "value": "Nothing"},
        ],
    },
    {"id": "b", "conversations": [{"from": "gpt", "value": "I begin"}]},
]
FIRST = Conversation.of_texts("Hello")
BOTH = Conversation.of_texts("Hello", "And then?")


@pytest.mark.parametrize(("multi_turn", "expected"), [(False, FIRST), (True, BOTH)])
def test_sharegpt_gives_what_the_person_said(tmp_path, multi_turn, expected):
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps(SHAREGPT))
    assert load_prompts(path, multi_turn=multi_turn) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\n\ntwo\n", [Conversation.of_texts("one"), Conversation.of_texts("two")]),
        ('"one"\n"two"', [Conversation.of_texts("one"), Conversation.of_texts("two")]),
        ('["one"]', [Conversation.of_texts("one")]),
        ('{"prompt": "one", "max_tokens": 7}', [Conversation.of_texts("one", max_tokens=7)]),
        ('{"text": "one"}\n{"prompt": ""}', [Conversation.of_texts("one")]),
        ("17", [Conversation.of_texts("17")]),
        (
            '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}',
            [
                Conversation(
                    ((_s := {"role": "system", "content": "s"}, {"role": "user", "content": "u"}),)
                )
            ],
        ),
    ],
)
def test_files_of_many_kinds_are_read(tmp_path, text, expected):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    assert load_prompts(path) == expected


@pytest.mark.parametrize("text", ["", "[]", '{"other": 1}', "[null, {}]"])
def test_a_file_without_prompts_is_refused(tmp_path, text):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="no prompts"):
        load_prompts(path)


def test_prompts_are_texts_messages_or_conversations():
    messages = [{"role": "user", "content": "Hello"}]
    assert as_conversations("Hello") == as_conversations(["Hello"]) == [FIRST]
    assert as_conversations([messages, FIRST]) == [FIRST, FIRST]


@pytest.mark.parametrize(
    ("prompts", "error"),
    [
        ([], ValueError),
        ([""], ValueError),
        ([[]], ValueError),
        ([1], TypeError),
        ([["a"]], TypeError),
    ],
)
def test_anything_else_is_refused(prompts, error):
    with pytest.raises(error):
        as_conversations(prompts)


def words(text: str) -> int:
    """A tokenizer with a template of three tokens."""
    return len(text.split()) + 3


@pytest.mark.parametrize("length", [4, 5, 64, 1000])
def test_synthetic_prompts_have_their_length(length):
    prompts = synthetic_prompts(words, 5, length)
    assert [words(prompt) for prompt in prompts] == [length] * 5
    assert synthetic_prompts(words, 5, length) == prompts


def test_a_tokenizer_that_cuts_words_is_met_all_the_same():
    def pieces(text: str) -> int:
        return sum((len(word) + 2) // 3 for word in text.split())

    assert [pieces(p) for p in synthetic_prompts(pieces, 5, 50)] == [50] * 5


def test_a_length_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="not possible"):
        synthetic_prompts(words, 1, 3)
    with pytest.raises(ValueError, match="exactly 50"):
        synthetic_prompts(lambda text: 2 * len(text.split()) + 1, 1, 50)
    with pytest.raises(ValueError, match="over 0"):
        synthetic_prompts(words, 0, 3)

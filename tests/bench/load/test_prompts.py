"""Prompts from files and lists, and synthetic prompts of exact lengths."""

from __future__ import annotations

import json

import pytest

from llamatelemetry.bench import Conversation, load_prompts, synthetic_prompts
from llamatelemetry.bench.load.prompts import as_conversations, rotate

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
def test_load_prompts_reads_user_turns_of_sharegpt(tmp_path, multi_turn, expected):
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
def test_load_prompts_reads_text_and_json_formats(tmp_path, text, expected):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    assert load_prompts(path) == expected


def test_load_prompts_reads_byte_order_mark_and_line_separators_inside_texts(tmp_path):
    texts = ["one\u2028two\x85three", "four"]
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    expected = [Conversation.of_texts(text) for text in texts]
    for name, content in (("p.jsonl", "\r\n".join(lines)), ("p.json", f"[{','.join(lines)}]")):
        for encoding in ("utf-8", "utf-8-sig"):
            (tmp_path / name).write_text(content, encoding=encoding)
            assert load_prompts(tmp_path / name) == expected
    (tmp_path / "p.txt").write_text("\n".join(texts), encoding="utf-8-sig")
    assert load_prompts(tmp_path / "p.txt") == expected


@pytest.mark.parametrize("text", ['[{"prompt": "one"},\n]', '{"prompt": "one"}\n{"prompt": "tw'])
def test_load_prompts_rejects_invalid_json(tmp_path, text):
    for name in ("p.json", "p.jsonl"):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"must be JSON \(.*\) or lines of JSON \(line \d: "):
            load_prompts(tmp_path / name)
    (tmp_path / "p.txt").write_text("[INST] Hello [/INST]\n{name} says")
    assert len(load_prompts(tmp_path / "p.txt")) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", '{"other": 1}', "[null, {}]", '{"messages": 5}', '{"messages": [5]}']
)
def test_load_prompts_rejects_file_without_prompts(tmp_path, text):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="found no prompts"):
        load_prompts(path)


def test_as_conversations_accepts_texts_messages_and_conversations():
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
        ({"role": "user", "content": "Hello"}, TypeError),
        (FIRST, TypeError),
        ([Conversation.of_texts("Hello", max_tokens=0)], ValueError),
        ([Conversation.of_texts("Hello", max_tokens=2.5)], ValueError),
    ],
)
def test_as_conversations_rejects_other_values(prompts, error):
    with pytest.raises(error):
        as_conversations(prompts)


def count_words(text: str) -> int:
    """Count tokens as a tokenizer would with one token per word and a template of three."""
    return len(text.split()) + 3


@pytest.mark.parametrize("length", [4, 5, 64, 1000])
def test_synthetic_prompts_have_exact_length(length):
    prompts = synthetic_prompts(count_words, 5, length)
    assert [count_words(prompt) for prompt in prompts] == [length] * 5
    assert synthetic_prompts(count_words, 5, length) == prompts


def test_synthetic_prompts_have_exact_length_when_words_are_split():
    def count_subwords(text: str) -> int:
        return sum((len(word) + 2) // 3 for word in text.split())

    assert [count_subwords(p) for p in synthetic_prompts(count_subwords, 5, 50)] == [50] * 5


def test_synthetic_prompts_reject_impossible_lengths():
    with pytest.raises(ValueError, match="input_tokens must be at least 4"):
        synthetic_prompts(count_words, 1, 3)
    with pytest.raises(ValueError, match="exactly 50 tokens"):
        synthetic_prompts(lambda text: 2 * len(text.split()) + 1, 1, 50)
    with pytest.raises(ValueError, match="greater than 0"):
        synthetic_prompts(count_words, 0, 3)


@pytest.mark.parametrize(
    ("turns", "requests", "expected"),
    [
        ((1, 1), 3, [(0, 1), (1, 1), (0, 1)]),
        ((3,), 7, [(0, 3), (0, 3), (0, 1)]),
        ((2, 1), 4, [(0, 2), (1, 1), (0, 1)]),
    ],
)
def test_rotate_repeats_prompts_up_to_number_of_requests(turns, requests, expected):
    conversations = [Conversation.of_texts(*"x" * count) for count in turns]
    assert list(rotate(conversations, requests)) == expected

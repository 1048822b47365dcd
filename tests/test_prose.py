"""The language of code and documentation: both follow CONTRIBUTING.md.

ruff's D401 finds most docstrings that are not in the imperative mood, but not those that begin with
a pronoun, an article or a noun. These tests do.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
VERBS = frozenset((ROOT / "tests/prose_verbs.txt").read_text().split())
CODE = sorted(
    path
    for folder in ("src", "scripts", "benchmarks", "examples", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "/build/" not in path.as_posix()
)
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "src/*/README.md",
        "examples/**/*.md",
        "changelog.d/*.md",
    )
    for path in ROOT.glob(pattern)
)
# Words that hide who acts, or what is meant.
FORBIDDEN = re.compile(
    r"""\b( who(m|so)?ever | anew | somebody | everybody | nobody | likewise | of\ none
    | as\ it\ were | all\ the\ same | to\ be\ had | slip\ of\ the\ pen
    | (?<!there\ )(is|are|was|were)\ no\ (?!longer|more|less|later|earlier)[a-z]\w* )\b""",
    re.IGNORECASE | re.VERBOSE,
)
BRITISH = re.compile(
    r"""\b( (behav|col|fav|hon|neighb)our\w* | finalis\w+ | initialis\w+ | normalis\w+ | recognis\w+
    | serialis\w+ | summaris\w+ | synchronis\w+ | organis\w+ | quantis\w+ | tokenis\w+ | cancelled
    | labelled )\b""",
    re.IGNORECASE | re.VERBOSE,
)
# Natural in some sentences, a riddle in others: only their number is limited, in all of src/.
LIMITED = {
    r"\b(of|for|in|from|with) (which|whom)\b": 20,
    r"\bwhat (is|are|was|has|had|have|the|it|they|a|an|of|comes|came)\b": 60,
    r"\b(told|tells|asked|asks)\b": 60,
    r"\b(whatever|whose)\b": 60,
}


class Text(NamedTuple):
    """A docstring or a comment."""

    place: str
    text: str
    is_docstring: bool


@functools.cache
def texts(path: Path) -> tuple[Text, ...]:
    """Return the docstrings and comments of a file."""
    source = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    found = [
        Text(f"{name}:{node.body[0].lineno}", docstring, True)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and (docstring := ast.get_docstring(node))
    ]
    found += [
        Text(f"{name}:{token.start[0]}", token.string, False)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return tuple(found)


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(each) for each in function.decorator_list)


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def begins_with_verb(docstring: str) -> bool:
    first = docstring.split(maxsplit=1)[0].strip(".,:;")
    return first[0].isupper() and first.lower() in VERBS


def test_function_docstrings_begin_with_a_verb_in_the_imperative() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{function.lineno}: {docstring.splitlines()[0]}"
        for path in CODE
        if "tests" not in path.relative_to(ROOT).parts
        for function in functions(path)
        if (docstring := ast.get_docstring(function)) and not is_property(function)
        if not begins_with_verb(docstring)
    ]
    assert wrong == [], "Begin with a verb, such as Return (tests/prose_verbs.txt lists them)"


def test_docstrings_and_comments_avoid_riddles_and_british_spelling() -> None:
    wrong = [
        f"{text.place}: {match.group()}"
        for path in CODE
        if path.name != Path(__file__).name
        for text in texts(path)
        for pattern in (FORBIDDEN, BRITISH)
        for match in pattern.finditer(text.text)
    ]
    assert wrong == []


def test_documentation_avoids_riddles_and_british_spelling() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in PAGES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for pattern in (FORBIDDEN, BRITISH)
        for match in pattern.finditer(line)
    ]
    assert wrong == []


def test_docstrings_are_markdown() -> None:
    wrong = [
        text.place
        for path in CODE
        for text in texts(path)
        if text.is_docstring
        and ("``" in text.text or re.search(r"^\s*={4,}", text.text, re.MULTILINE))
    ]
    assert wrong == []


def test_comments_are_not_banners() -> None:
    wrong = [
        text.place
        for path in CODE
        for text in texts(path)
        if not text.is_docstring and re.match(r"# ?[-=]{4,}", text.text)
    ]
    assert wrong == []


@pytest.mark.parametrize(("pattern", "limit"), LIMITED.items())
def test_vague_words_stay_rare(pattern: str, limit: int) -> None:
    found = [
        f"{text.place}: {match.group()}"
        for path in CODE
        if (ROOT / "src") in path.parents
        for text in texts(path)
        for match in re.finditer(pattern, text.text, re.IGNORECASE)
    ]
    assert len(found) < limit, found


def test_test_names_begin_with_their_subject() -> None:
    riddle = re.compile(
        r"test_(an?|the|that|those|this|it|so|what|who|whose|nothing|of|with|without|where|when)_"
    )
    wrong = [
        f"{path.relative_to(ROOT)}:{function.lineno}: {function.name}"
        for path in CODE
        if path.name.startswith("test_")
        for function in functions(path)
        if riddle.match(function.name)
    ]
    assert wrong == []

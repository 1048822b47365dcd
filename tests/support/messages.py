"""The messages in the code: logged at WARNING or above, and findings of `llamatelemetry doctor`.

They are read from the syntax tree. A message is a text with gaps, where the code inserts values. A
variable is followed to its assignments, a parameter to the calls of its function. A text that comes
from another file is a gap: `_ELSEWHERE` names its function.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
GAP = "\0"
_LEVELS = frozenset({"warning", "error", "exception", "critical"})
_DEEPEST = 3
"""Number of variables and functions that a text is followed through."""
_FINDINGS = {"Check": 2, "ProbeResult": 1}
"""Classes of findings, with the position of the text. The status is the first argument."""
_HARMLESS = frozenset({"ok", "info"})
_PERCENT = re.compile(r"%[sdrg]|\{signal\}")
_HAS_WORDS = re.compile(r"[A-Za-z]{3}")
_SENTENCE_END = re.compile(r"(?<=[a-zA-Z0-9])\. |\. ?\0")
# Texts that are returned or raised, and logged in another file.
_ELSEWHERE = {
    "llamatelemetry/config/_option.py": ("invalid_value_message",),
    "llamatelemetry/config/otel_variables.py": ("_batch_sizes",),
    "llamatelemetry/llama/server/manager.py": ("_crash_error",),
    "llamatelemetry/distro/_instrumentors.py": ("skip_message",),
}


class Message(NamedTuple):
    """A message, and the place in the code. `text` has `GAP` for each inserted value."""

    place: str
    text: str

    @property
    def shown(self) -> str:
        """The text with a sign for each gap."""
        return self.text.replace(GAP, "…")

    def is_in(self, page: str) -> bool:
        """Return whether a page has the first sentence, with other text in the gaps."""
        sentence = _SENTENCE_END.split(self.text, maxsplit=1)[0]
        parts = [part.strip() for part in sentence.split(GAP)]
        return re.search(".{0,80}?".join(map(re.escape, parts)), page) is not None


def messages() -> list[Message]:
    """Return all messages, each once."""
    found = {each.text: each for each in _all_texts() if _HAS_WORDS.search(each.text)}
    return list(found.values())


def files_with_texts_from_elsewhere() -> set[str]:
    """Return the files with a call whose text is not in the file."""
    return {each.place.partition(":")[0] for each in _all_texts() if not each.text.strip(GAP)}


@functools.cache
def _all_texts() -> tuple[Message, ...]:
    return tuple(
        message
        for path in sorted((ROOT / "src").rglob("*.py"))
        if "/build/" not in path.as_posix()
        for message in _Module(path).messages()
    )


class _Module:
    """One file with its functions and the assignments in them."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(ROOT / "src").as_posix()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]

    def messages(self) -> Iterator[Message]:
        """Yield the messages of the file."""
        is_doctor = "/cli/doctor/" in self.name
        for node in ast.walk(self.tree):
            text = self._message_of(node, is_doctor=is_doctor) if _is_call(node) else None
            for each in self._texts(text, node) if text is not None else ():
                yield Message(f"{self.name}:{node.lineno}", each)
        for name in _ELSEWHERE.get(self.name, ()):
            for each in self._returned(name, 0):
                yield Message(f"{self.name}:{name}", each)

    def _message_of(self, call: ast.Call, *, is_doctor: bool) -> ast.expr | None:
        """Return the argument of a call that is the text of a message."""
        function, arguments = ast.unparse(call.func), call.args
        logger, _, method = function.rpartition(".")
        if logger in {"_logger", "logger"} and method in {*_LEVELS, "log"}:
            return arguments[1] if method == "log" else arguments[0]
        if function == "warn_once" or ("/distro/" in self.name and method == "append"):
            is_warning = function == "warn_once" or logger.endswith("warnings")
            return arguments[0] if is_warning else None
        return _finding(call) if is_doctor else None

    def _texts(self, node: ast.expr, at: ast.AST, depth: int = 0) -> list[str]:
        """Return the texts that an expression can have."""
        found = [GAP]
        match node:
            case ast.Constant(value=str(text)):
                found = [_PERCENT.sub(GAP, text)]
            case ast.JoinedStr(values=values):
                found = _product([self._texts(each, at, depth) for each in values])
            case ast.FormattedValue(value=ast.IfExp() | ast.Constant()):
                found = self._texts(node.value, at, depth)
            case ast.IfExp(body=body, orelse=other):
                found = self._texts(body, at, depth) + self._texts(other, at, depth)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                found = _product([self._texts(left, at, depth), self._texts(right, at, depth)])
            case ast.Name(id=name) if depth < _DEEPEST:
                found = self._texts_of_name(name, at, depth + 1)
            case ast.Call(func=ast.Name(id=name)) if depth < _DEEPEST:
                found = self._returned(name, depth + 1)
        return found

    def _returned(self, name: str, depth: int) -> list[str]:
        """Return the texts that a function of this file returns, or sets `message` to."""
        values: list[ast.expr] = []
        for function in (each for each in self.functions if each.name == name):
            values += _assigned(function, "message")[0]
            for each in ast.walk(function):
                if isinstance(each, ast.Return) and each.value is not None:
                    is_error = isinstance(each.value, ast.Call) and each.value.args
                    values.append(each.value.args[0] if is_error else each.value)
        return [text for each in values for text in self._texts(each, each, depth)] or [GAP]

    def _texts_of_name(self, name: str, at: ast.AST, depth: int) -> list[str]:
        function = self._around(at)
        if function is not None:
            values, additions = _assigned(function, name)
            texts = [text for each in values for text in self._texts(each, at, depth)]
            texts += [text for each in additions for text in self._texts(each, at, depth)]
            arguments = [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]
            if name in arguments:
                texts += self._texts_of_argument(function, arguments.index(name), name, depth)
            if texts:
                return texts
        values, _ = _assigned(self.tree, name)
        return [text for each in values for text in self._texts(each, self.tree, depth)] or [GAP]

    def _texts_of_argument(
        self, function: ast.AST, position: int, name: str, depth: int
    ) -> list[str]:
        found: list[str] = []
        for call in ast.walk(self.tree):
            if not _is_call(call):
                continue
            called = call.func
            shift = isinstance(called, ast.Attribute)
            if (called.attr if shift else getattr(called, "id", "")) != function.name:
                continue
            named = [each.value for each in call.keywords if each.arg == name]
            index = position - shift
            given = named or call.args[index : index + 1]
            found += [text for each in given for text in self._texts(each, call, depth)]
        return found

    def _around(self, node: ast.AST) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
        """Return the innermost function around a node."""
        around = [
            each
            for each in self.functions
            if each.lineno <= getattr(node, "lineno", 0) <= (each.end_lineno or 0)
        ]
        return max(around, key=lambda each: each.lineno, default=None)


def _finding(call: ast.Call) -> ast.expr | None:
    """Return the text of a finding of doctor that is a problem, or may be one."""
    name, arguments = ast.unparse(call.func), call.args
    if name in _FINDINGS and len(arguments) > _FINDINGS[name]:
        return None if _constant(arguments[0]) in _HARMLESS else arguments[_FINDINGS[name]]
    if name == "InstrumentorStatus":
        return arguments[3] if _constant(arguments[2]) == "warn" else None
    reasons = [each.value for each in call.keywords if each.arg == "reason"]
    return reasons[0] if name == "replace" and reasons else None


def _is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call)


def _constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _assigned(scope: ast.AST, name: str) -> tuple[list[ast.expr], list[ast.expr]]:
    """Return the values that a name is set to, and those that are added to it."""
    values: list[ast.expr] = []
    additions: list[ast.expr] = []
    for node in ast.walk(scope):
        if isinstance(node, ast.AugAssign) and ast.unparse(node.target) == name:
            additions.append(node.value)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value:
            values.append(node.value)
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if ast.unparse(target) == name:
                values.append(node.value)
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=False)
                values += [value for each, value in pairs if ast.unparse(each) == name]
    return values, additions


def _product(parts: list[list[str]]) -> list[str]:
    return functools.reduce(lambda left, right: [a + b for a in left for b in right], parts, [""])

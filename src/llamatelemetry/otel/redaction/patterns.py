"""The built-in patterns, by name.

Each expression is written so that its time grows with the length of the text: repetitions are
bounded or possessive, and a look-behind lets a match begin only where a run begins. They are in
the syntax that `re` and `regex` share.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from . import checks
from .engine import Matcher

VALUE = "value"
"""The group that is redacted, where an expression has one; else all it matches is."""


@dataclass(frozen=True)
class Pattern:
    """One kind of text to redact.

    Attributes:
        name: of a built-in one; a user's is known by its expression.
        expression: what finds it. Its group `value`, if it has one, is what is redacted.
        needs: any of these is in every text that matches: most texts are done with after a
            look for them.
        check: gives how much of what was found really is one.
        secret: whether it gives access to something, rather than telling of somebody.
    """

    name: str
    expression: str
    needs: tuple[str, ...] = ()
    check: Callable[[str], int] | None = None
    secret: bool = False
    trusted: bool = True

    @cached_property
    def matcher(self) -> Matcher:
        """Compiled when first used."""
        return Matcher(self.expression, trusted=self.trusted)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where it is in the text, from left to right.

        Raises:
            TimeoutError: it could not be searched to its end in time.
        """
        if self.needs and not any(needed in text for needed in self.needs):
            return
        search = self.matcher.searching(text)
        at = 0
        while at <= len(text) and (match := search(at)) is not None:
            start, end = match.span(VALUE) if self._has_value else (-1, -1)
            if start < 0:
                start, end = match.span()
            if self.check is not None:
                end = start + self.check(text[start:end])
            if end > start:
                yield start, end
                at = end
            else:
                # Not past what was found: the real one may begin inside it.
                at = match.start() + 1

    @cached_property
    def _has_value(self) -> bool:
        return self.trusted and f"(?P<{VALUE}>" in self.expression


_PEM_END: Final = "(?:-----END [A-Z0-9 ]{0,40}-----)?"
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_SEPARATOR: Final = r"[\"'\\]{0,3}[ \t]{0,4}[:=][ \t]{0,4}[\"'\\]{0,3}"

_PERSONAL: Final = (
    Pattern(
        "email",
        r"(?<![\w.+-])[\w.+-]{1,64}+@(?:[\w-]{1,63}+\.){1,8}[^\W\d_]{2,24}(?![\w-])",
        needs=("@",),
    ),
    Pattern(
        "phone",
        # With a country's code, or in the North American form.
        r"(?<![\w.+-])(?:\+[1-9](?:[ ./()-]{0,2}\d){7,14}+"
        r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w-]|\.\d)",
    ),
    Pattern(
        "ip",
        rf"(?<![\d.])(?<!\w)(?:{_OCTET}\.){{3}}{_OCTET}(?!\d|\.\d|\w)"
        rf"|(?<![\w.])(?<![0-9A-Fa-f]:)(?<!::)(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:(?:{_OCTET}\.){{3}}{_OCTET}"
        r"|[0-9A-Fa-f]{1,4})?(?![\w:])",
        needs=(".", ":"),
        check=checks.ip_address,
    ),
    Pattern(
        "credit_card",
        r"(?<![\w.])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?"
        r"|\d{4}([ -])\d{6}\2\d{4,5})(?!\w)",
        check=checks.card,
    ),
    Pattern(
        "iban",
        r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}+",
        check=checks.iban,
    ),
    Pattern(
        "us_ssn",
        r"(?<![\w-])(?!000|666|9)\d{3}([ -])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])",
    ),
)

_SECRETS: Final = (
    Pattern(
        "private_key",
        # To its end line, or, where that was cut off, to the end of the text.
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"[^-]*+(?:-(?!----)[^-]*+)*+" + _PEM_END,
        needs=("PRIVATE KEY",),
    ),
    Pattern(
        "jwt",
        r"(?<![\w-])eyJ[\w-]{8,}+(?:\.[\w-]*+){2,4}",
        needs=("eyJ",),
    ),
    Pattern(
        "bearer_token",
        r"(?i)(?<!\w)bearer[ \t]{1,4}+(?P<value>(?!eyJ)[\w.~+/-]{8,}+={0,2})",
        needs=("earer", "EARER"),
        check=checks.bearer,
    ),
    Pattern(
        "api_key",
        r"(?i)(?<![A-Za-z0-9])(?:api[_-]?key|(?:access|auth|refresh|session)[_-]?token"
        r"|client[_-]?secret|secret[_-]?key|passw(?:or)?d)"
        + _SEPARATOR
        + r"(?P<value>[^\s\"'\\&,;<>\[\]{}]{6,512})",
        needs=("=", ":"),
    ),
    Pattern(
        "url_credentials",
        # User and password before the host, and keys and signatures in the query.
        r"(?<=://)[^\s/@\"'<>]{1,256}+(?=@)"
        r"|(?i:(?:^|[?&;])(?:key|api[_-]?key|code|sig|token|(?:access|auth|refresh|id)[_-]?token"
        r"|subscription-key|client_secret|password|x-(?:amz|goog)-(?:signature|credential"
        r"|security-token))=)(?P<value>[^\s&#\"'<>;]{1,4096})",
        needs=("://", "="),
    ),
    Pattern(
        "aws_key",
        r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])"
        r"|(?i:aws_?secret_?access_?key)" + _SEPARATOR + r"[A-Za-z0-9/+=]{40})",
        needs=("AKIA", "ASIA", "ABIA", "ACCA", "access", "Access", "ACCESS"),
    ),
    Pattern(
        "openai_key",
        r"(?<![A-Za-z0-9])sk-(?!ant-)[\w-]{20,}+",
        needs=("sk-",),
    ),
    Pattern("anthropic_key", r"(?<![A-Za-z0-9])sk-ant-[\w-]{20,}+", needs=("sk-ant-",)),
    Pattern(
        "huggingface_token",
        r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{30,}+",
        needs=("hf_", "api_org_"),
    ),
    Pattern(
        "github_token",
        r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}+|github_pat_\w{22,}+)",
        needs=("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    Pattern(
        "google_key",
        r"(?<![A-Za-z0-9])(?:AIza[\w-]{35}(?![\w-])|ya29\.[\w-]{20,}+|GOCSPX-[\w-]{20,}+)",
        needs=("AIza", "ya29.", "GOCSPX-"),
    ),
    Pattern(
        "slack_token",
        r"(?<![A-Za-z0-9])(?:xox[abeoprs]-[A-Za-z0-9-]{10,}+|xapp-[A-Za-z0-9-]{10,}+"
        r"|hooks\.slack\.com/(?:services|workflows)/[\w/]{20,}+)",
        needs=("xox", "xapp-", "hooks.slack.com"),
    ),
    Pattern(
        "azure_key",
        r"(?i)(?:AccountKey|SharedAccessKey)=(?P<value>[A-Za-z0-9+/]{40,100}+={0,2})"
        r"|(?<=[?&]sig=)[\w%+/-]{30,}+",
        needs=("Key=", "key=", "sig="),
    ),
    Pattern(
        "stripe_key",
        r"(?<![A-Za-z0-9])(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,}+|whsec_[A-Za-z0-9]{24,}+)",
        needs=("k_live_", "k_test_", "whsec_"),
    ),
    Pattern(
        "vendor_key",
        # GitLab, npm, PyPI, SendGrid, Groq, xAI, NVIDIA, Perplexity, Replicate, LangSmith,
        # Databricks, DigitalOcean, Telegram, HashiCorp Vault.
        r"(?<![A-Za-z0-9])(?:glpat-[\w-]{20,}+|npm_[A-Za-z0-9]{36}|pypi-AgEIcHlwaS5vcmc[\w-]{20,}+"
        r"|SG\.[\w-]{22}\.[\w-]{43}|gsk_[A-Za-z0-9]{40,}+|xai-[A-Za-z0-9]{40,}+|nvapi-[\w-]{40,}+"
        r"|pplx-[A-Za-z0-9]{32,}+|r8_[A-Za-z0-9]{37}|lsv2_(?:pt|sk)_\w{32,}+|dapi[0-9a-f]{32}"
        r"|dop_v1_[0-9a-f]{64}|\d{8,10}:AA[\w-]{33}|hvs\.[\w-]{24,}+)(?![A-Za-z0-9])",
        needs=(
            *("glpat-", "npm_", "pypi-", "SG.", "gsk_", "xai-", "nvapi-", "pplx-", "r8_"),
            *("lsv2_", "dapi", "dop_v1_", ":AA", "hvs."),
        ),
    ),
)

BUILT_IN: Final = {
    pattern.name: pattern
    for pattern in (
        *_PERSONAL,
        *(replace(pattern, secret=True) for pattern in _SECRETS),
    )
}
"""By the names that `redact_patterns` takes."""

GROUPS: Final = {
    "pii": tuple(pattern for pattern in BUILT_IN.values() if not pattern.secret),
    "secrets": tuple(pattern for pattern in BUILT_IN.values() if pattern.secret),
    "all": tuple(BUILT_IN.values()),
}
"""Several at once."""

_WORD: Final = re.compile(r"[a-z][a-z0-9_-]*", re.IGNORECASE)


def resolve(given: Iterable[str | re.Pattern[str]]) -> tuple[Pattern, ...]:
    """The patterns of names, of groups and of regular expressions, each once.

    Raises:
        ValueError: no regular expression, or a name with a slip of the pen.
        ImportError: an expression of the user's, and no engine for it.
    """
    found: dict[str, Pattern] = {}
    for each in given:
        for pattern in _resolved(each):
            found.setdefault(pattern.name, pattern)
    return tuple(found.values())


def _resolved(given: str | re.Pattern[str]) -> tuple[Pattern, ...]:
    if isinstance(given, re.Pattern):
        return (_users(_with_flags(given)),)
    name = given.strip().lower().replace("-", "_")
    if name in BUILT_IN:
        return (BUILT_IN[name],)
    if name in GROUPS:
        return GROUPS[name]
    if _WORD.fullmatch(given.strip()):
        near = difflib.get_close_matches(name, [*BUILT_IN, *GROUPS], n=1, cutoff=0.75)
        if near:
            raise ValueError(
                f"{given!r} is no built-in pattern; the nearest is {near[0]!r}. To redact the "
                f"word itself, write '(?:{given})'"
            )
    return (_users(given),)


def _users(expression: str) -> Pattern:
    pattern = Pattern(expression, expression, trusted=False)
    _ = pattern.matcher  # what is wrong with it is told now
    return pattern


def _with_flags(compiled: re.Pattern[str]) -> str:
    letters = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}
    flags = "".join(letter for flag, letter in letters.items() if compiled.flags & flag)
    return f"(?{flags}:{compiled.pattern})" if flags else compiled.pattern

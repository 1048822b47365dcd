"""The built-in patterns and their lookup by name.

The expressions use the syntax that `re` and `regex` share. Their time grows linearly with the
length of the text: repetitions are bounded or possessive, and a look-behind lets a match start
only where a run of such characters starts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from llamatelemetry.config import SECRET_PARAMETER, expression_with_flags
from llamatelemetry.otel.redaction import checks
from llamatelemetry.otel.redaction.matching import Pattern

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
        # With a country code, or in the North American format.
        r"(?<![\w.+-])(?:\+[1-9](?:[ ./()-]{0,2}\d){7,14}+"
        r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w-]|\.\d)",
        digits=8,
    ),
    Pattern(
        "ip",
        rf"(?<![\d.])(?<!\w)(?:{_OCTET}\.){{3}}{_OCTET}(?!\d|\.\d|\w)"
        rf"|(?<![\w.])(?<![0-9A-Fa-f]:)(?<!::)(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:(?:{_OCTET}\.){{3}}{_OCTET}"
        r"|[0-9A-Fa-f]{1,4})?(?![\w:])",
        needs=(".", ":"),
        check=checks.ip_address_length,
    ),
    Pattern(
        "credit_card",
        r"(?<![\w.])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?"
        r"|\d{4}([ -])\d{6}\2\d{4,5})(?!\w)",
        digits=13,
        check=checks.card_length,
    ),
    Pattern(
        "iban",
        r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}+",
        digits=2,
        check=checks.iban_length,
    ),
    Pattern(
        "us_ssn",
        r"(?<![\w-])(?!000|666|9)\d{3}([ -])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])",
        digits=9,
    ),
)

_SECRETS: Final = (
    Pattern(
        "private_key",
        # Up to the END line, or to the end of the text if the END line was cut off.
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        # Not possessive, which some versions of Python 3.11 match wrongly around a lookahead. It never
        # backtracks, because what follows may be empty.
        r"[^-]*+(?:-(?!----)[^-]*+)*" + _PEM_END,
        needs=("PRIVATE KEY",),
    ),
    Pattern("jwt", r"(?<![\w-])eyJ[\w-]{8,}+(?:\.[\w-]*+){2,4}", needs=("eyJ",)),
    Pattern(
        "bearer_token",
        r"(?i)(?<!\w)bearer[ \t]{1,4}+(?P<value>(?!eyJ)[\w.~+/-]{8,}+={0,2})",
        needs=("earer", "EARER"),
        check=checks.bearer_token_length,
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
        # User and password in front of the host, up to the last "@"; secrets in the query or
        # fragment, also of a URL that is itself a parameter, or whose "&" JSON has escaped.
        r"(?<=://)[^\s/?#\"'<>]{1,256}(?=@)"
        r"|(?i:(?:^|[?&;#]|\\u0026|%3F|%26)" + SECRET_PARAMETER + r")"
        r"(?P<value>[^\s&#\"'<>;\\]++)",
        needs=("://", "=", "%3D", "%3d"),
    ),
    Pattern(
        "aws_key",
        r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])"
        r"|(?i:aws_?secret_?access_?key)" + _SEPARATOR + r"[A-Za-z0-9/+=]{40})",
        needs=("AKIA", "ASIA", "ABIA", "ACCA", "access", "Access", "ACCESS"),
    ),
    Pattern("openai_key", r"(?<![A-Za-z0-9])sk-(?!ant-)[\w-]{20,}+", needs=("sk-",)),
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
    for pattern in (*_PERSONAL, *(replace(pattern, secret=True) for pattern in _SECRETS))
}
"""Patterns by the names that the option `redact_patterns` accepts."""

GROUPS: Final = {
    "pii": tuple(pattern for pattern in BUILT_IN.values() if not pattern.secret),
    "secrets": tuple(pattern for pattern in BUILT_IN.values() if pattern.secret),
    "all": tuple(BUILT_IN.values()),
}
"""Groups of patterns by the names that the option `redact_patterns` accepts."""

_WORD: Final = r"(?i)[a-z][a-z0-9_-]*"


def resolve_patterns(given: Iterable[str | re.Pattern[str]]) -> tuple[Pattern, ...]:
    """Return the patterns of the given pattern names, group names and regular expressions.

    Raises:
        ValueError: A regular expression is invalid or a pattern name is unknown.
        ImportError: A regular expression was given, and the package `regex` is missing.
    """
    found: dict[str, Pattern] = {}
    for each in given:
        for pattern in _resolve(each):
            found.setdefault(pattern.name, pattern)
    return tuple(found.values())


def _resolve(given: str | re.Pattern[str]) -> tuple[Pattern, ...]:
    if isinstance(given, re.Pattern):
        return (_user_pattern(expression_with_flags(given)),)
    name = given.strip().lower().replace("-", "_")
    if name in BUILT_IN:
        return (BUILT_IN[name],)
    if name in GROUPS:
        return GROUPS[name]
    if re.fullmatch(_WORD, given.strip()):
        near = difflib.get_close_matches(name, [*BUILT_IN, *GROUPS], n=1, cutoff=0.75)
        if near:
            raise ValueError(
                f"Unknown pattern {given!r}. Did you mean {near[0]!r}? "
                f"To redact the word itself, use '(?:{given})'"
            )
    return (_user_pattern(given),)


def _user_pattern(expression: str) -> Pattern:
    pattern = Pattern(expression, expression, trusted=False)
    # Compile now, so that an invalid expression fails when it is given and not when it is used.
    _ = pattern.matcher
    return pattern

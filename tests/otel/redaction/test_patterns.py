"""Built-in patterns: examples that each and only it matches, near misses, time limits."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time

import pytest

from llamatelemetry.otel.redaction import matching
from llamatelemetry.otel.redaction.checks import (
    bearer_token_length,
    card_length,
    iban_length,
    ip_address_length,
)
from llamatelemetry.otel.redaction.patterns import BUILT_IN, GROUPS, Pattern, resolve_patterns
from tests.otel.redaction.adversarial import ADVERSARIAL, repeated

# « » marks the expected match in each text.
EXAMPLES = {
    "email": [
        "write to «alice.smith+tag@mail.example.co.uk», please",
        "«bob@example.com».",
        "<«müller@bücher.example»>",
        "mailto:«a@b.io»?subject=x",
    ],
    "phone": [
        "call «+49 30 1234567» now",
        "«+1-202-555-0143»",
        "tel:«+33612345678»",
        "at «(202) 555-0143», or «202-555-0143»",
        "«202.555.0143»",
        "the shortest: «+12345678»",
    ],
    "ip": [
        "from «203.0.113.9»:443",
        "host «2001:db8::8a2e:370:7334» is up",
        "addr:«2001:db8:0:1:1:1:1:1»",
        "[«fe80::1»]",
        "«::ffff:203.0.113.9» mapped",
    ],
    "credit_card": [
        "card «4111 1111 1111 1111» 12/28",
        "«5555-5555-5555-4444».",
        "amex «378282246310005»",
        "«3782 822463 10005»",
        "cvv after «4111 1111 1111 1111» 123",
        "«6011000990139424»",
        "the shortest: «4222222222222»",
        "«2223003122003222»",
    ],
    "iban": [
        "pay to «DE89 3704 0044 0532 0130 00», thanks",
        "«GB82WEST12345698765432»",
        "AB12 is not «NL91ABNA0417164300» is it",
        "«fr1420041010050500013m02606»",
        "«NO9386011117947» now",
    ],
    "us_ssn": ["ssn «078-05-1120»", "«219 09 9999»."],
    "private_key": [
        "«-----BEGIN RSA PRIVATE KEY-----\nMIIEow-IBA/AKC+Q=\n-----END RSA PRIVATE KEY-----» after",
        "«-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXk\\n-----END OPENSSH PRIVATE KEY-----»",
        "«-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQdGBF\n-----END PGP PRIVATE KEY BLOCK-----»",
        "cut off: «-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqh»",
    ],
    "jwt": [
        "token «eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P»;",
        "«eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.»",
    ],
    "bearer_token": [
        "Authorization: Bearer «mF_9.B5f-4.1JqM» end",
        "bearer «0123456789abcdef==»",
    ],
    "api_key": [
        "api_key=«supersecret123»&x=1",
        '{"client_secret": "«s3cr3t-value»"}',
        "password: «hunter22»",
        "X-Api-Key: «abcdef123456»",
        '\\"access_token\\":\\"«abc123def»\\"',
    ],
    "url_credentials": [
        "https://«user:pa55»@example.com/path",
        "GET https://example.com/v1?a=1&key=«sesame»&b=2",
        "https://example.com/v1?sig=«abc%2Bdef»",
        "key=«sesame»",
        "https://«user:pa@55»@example.com/path",
        "https://example.com/#access_token=«abc»&x=1",
        'Post "https://example.com/?a=1\\u0026secret=«abc»\\u0026b=2"',
        "https://example.com/?next=https%3A%2F%2Fexample.com%3Fkey%3D«abc»",
        "https://example.com/?auth%5Btoken%5D=«abc»&b",
        "https://example.com/?token=«" + "a" * 5000 + "»",
    ],
    "aws_key": [
        "id «AKIAIOSFODNN7EXAMPLE».",
        "«aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»",
    ],
    "openai_key": [
        "Incorrect key provided: «sk-proj-abcDEF123456789_-abcdefghij».",
        "«sk-abcdefghijklmnopqrstuvwx»",
        "«sk-or-v1-0123456789abcdef0123»",
    ],
    "anthropic_key": ["«sk-ant-api03-abcdefghijklmnopqrst_uv-wx» ok"],
    "huggingface_token": ["login «hf_abcdefghijklmnopqrstuvwxyzABCDEF»"],
    "github_token": [
        "«ghp_abcdefghijklmnopqrstuvwxyz0123456789»",
        "«github_pat_11ABCDEFG0123456789abc_xyz»",
    ],
    "google_key": [
        "«AIzaSyA-abcdefghijklmnopqrstuvwxyz01234»",
        "«ya29.a0AfH6SMBabcdefghijkl»",
        "«GOCSPX-abcdefghijklmnopqrst»",
    ],
    "slack_token": [
        "«xoxb-123456789012-abcdefghij»",
        "https://«hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXX»",
    ],
    "azure_key": [
        "Protocol=https;AccountKey=«" + "abcdefghij0123456789" * 4 + "+/ABCD==»;EndpointSuffix=x",
    ],
    "stripe_key": ["«sk_live_abcdefghijklmnop1234»", "«whsec_abcdefghijklmnopqrstuvwx»"],
    "vendor_key": [
        "«glpat-abcdefghij0123456789»",
        "«npm_abcdefghijklmnopqrstuvwxyz0123456789»",
        "«gsk_abcdefghijklmnopqrstuvwxyz0123456789ABCDEF»",
        "«hvs.abcdefghijklmnopqrstuvwx»",
        "«dapi0123456789abcdef0123456789abcdef»",
        "«123456789:AAabcdefghijklmnopqrstuvwxyz0123456»",
    ],
}

NEAR_MISSES = {
    "email": ["a @ b.com", "@decorator", "user@localhost", "x@y.z1", "5@ 2", "git@", "@a.com"],
    "phone": [
        *("2026-11-22", "10:30", "+3 points", "12345", "3.14159265358", "1.2.3.4"),
        *("4111-1111-1111-1111", "550e8400-e29b-41d4-a716-446655440000", "202 555", "1732289000"),
        *("+1234567890123456789", "123-45-6789"),
    ],
    "ip": [
        *("1.2.3", "256.1.1.1", "1.2.3.4.5", "127.0.0.1", "0.0.0.0", "::1", "12:34:56", "::"),
        *("std::vector", "a1.2.3.4", "v1.2.3.4b", "10:20", "00:1B:44:11:3A:B7"),
    ],
    "credit_card": [
        *("4111 1111 1111 1112", "1234567890123456", "4111111111111", "1732289000123456789"),
        *("4111 1111-1111 1111", "a4111111111111111", "41111111111111111111", "378282246310006"),
    ],
    "iban": [
        *("DE88370400440532013000", "XX89370400440532013000", "DE8937040044053201300"),
        *("GB82 WEST", "DE89370400440532013000X", "AB12CD34", "gpt4 turbo 2026 preview"),
    ],
    "us_ssn": [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        *("123-45 6789", "2026-11-22", "1123-45-6789", "123-45-67890"),
    ],
    "private_key": [
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "a PRIVATE KEY is needed",
    ],
    "jwt": ["eyJhbGci", "eyJ.eyJ.x", "eyJhbGciOiJIUzI1NiJ9", "heyJude12345.eyes.open"],
    "bearer_token": ["the bearer of bad news", "bearer authentication", "forbearer 12345678"],
    "api_key": [
        *("the api key is elsewhere", "api_key=", "password: ab", "tokens: 12", "max_tokens=4096"),
        *("token_count: 1234567", "encompassword=123456"),
    ],
    "url_credentials": [
        *("https://example.com/a@b", "https://example.com?q=key", "monkey=banana", "key = x"),
        *("https://example.com?model=x&max=1", "//me@host", "https://example.com/?max_tokens=5"),
        *("PublicKeyToken=31bf3856ad364e35", "https://example.com/?zipcode=1&monkey=2&author=3"),
    ],
    "aws_key": ["AKIA1234", "XAKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLES0", "secret key: none"],
    "openai_key": ["sk-short", "task-abcdefghijklmnopqrstuv", "sk-ant-api03-abcdefghijklmnopqrst"],
    "anthropic_key": ["sk-ant-", "sk-ant-short"],
    "huggingface_token": ["hf_hub_download", "hf_abc", "selfhf_abcdefghijklmnopqrstuvwxyzABCDEF"],
    "github_token": ["ghp_short", "github_pat_x", "aghp_abcdefghijklmnopqrstuvwxyz0123456789"],
    "google_key": ["AIza", "AIzaSyA-tooshort", "ya29.short"],
    "slack_token": ["xoxo", "xox-abc", "hooks.slack.com/services/"],
    "azure_key": ["AccountKey=short", "PublicKeyToken=31bf3856ad364e35"],
    "stripe_key": ["sk_live_", "sk_test_x", "risk_live_abcdefghijklmnop1234"],
    "vendor_key": ["npm_config_registry", "gsk_", "SG.short", "dapiserver", "12:AAbc"],
}


def unmarked(text: str) -> str:
    return text.replace("«", "").replace("»", "")


def matches_in(pattern: Pattern, text: str) -> list[str]:
    return [text[start:end] for start, end in pattern.spans(text)]


@pytest.fixture(params=["regex", "re"])
def regex_engine(request, monkeypatch):
    """Compile the patterns with the package `regex` and with the standard library's `re`."""
    if request.param == "re":
        monkeypatch.setattr(matching, "_import_regex", lambda: None)
    for pattern in BUILT_IN.values():
        pattern.__dict__.pop("matcher", None)
    yield request.param
    for pattern in BUILT_IN.values():
        pattern.__dict__.pop("matcher", None)


def test_every_pattern_has_examples_near_misses_and_adversarial_texts():
    assert set(EXAMPLES) == set(NEAR_MISSES) == set(ADVERSARIAL) == set(BUILT_IN)


@pytest.mark.parametrize("name", EXAMPLES)
def test_pattern_finds_its_examples(name, regex_engine):
    for example in EXAMPLES[name]:
        expected = re.findall("«(.*?)»", example, re.DOTALL)
        assert matches_in(BUILT_IN[name], unmarked(example)) == expected, example


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_pattern_ignores_near_misses(name, regex_engine):
    for text in NEAR_MISSES[name]:
        for given in (text, f"before {text} after"):
            if (name, given) != ("private_key", text):
                assert matches_in(BUILT_IN[name], given) == [], given


@pytest.mark.parametrize("name", EXAMPLES)
def test_pattern_has_example_that_no_other_pattern_finds(name):
    """Check that each pattern is needed: without it, one of its examples would not be redacted."""
    others = [pattern for other, pattern in BUILT_IN.items() if other != name]
    assert any(
        all(matches_in(other, unmarked(example)) == [] for other in others)
        for example in EXAMPLES[name]
    )


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_built_in_pattern_stays_within_time_limit_on_adversarial_text(name, regex_engine):
    """Check both modules: `re` cannot be interrupted within one search."""
    for unit in ADVERSARIAL[name]:
        text = repeated(unit, 200_000)
        started = time.monotonic()
        with contextlib.suppress(TimeoutError):
            list(BUILT_IN[name].spans(text))
        limit_s = matching.BASE_S + len(text) * matching.PER_CHAR_S
        # Quadratic time would take minutes. The factor allows for a busy machine.
        assert time.monotonic() - started < 10 * limit_s, unit


def test_user_pattern_raises_timeout_error_at_its_time_limit():
    (pattern,) = resolve_patterns([r"(a|aa)+$"])
    text = "a" * 100 + "b"
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        list(pattern.spans(text))
    # The factor allows for a busy machine. Without a limit the search would not end.
    assert time.monotonic() - started < 100 * matching.BASE_S


def test_time_limit_does_not_count_waiting():
    def check(match: str) -> int:
        time.sleep(matching.BASE_S + 0.02)
        return len(match)

    pattern = Pattern("word", r"\w+", check=check)
    assert list(pattern.spans("one two")) == [(0, 3), (4, 7)]


def test_built_in_pattern_keeps_interpreter_lock_on_short_text():
    """A thread that waits for the lock must not get it in each search."""
    pytest.importorskip("regex")
    runs, may_run = [0], threading.Event()

    def run() -> None:
        may_run.wait()
        for _ in range(1_000_000):
            runs[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    interval_s = sys.getswitchinterval()
    # From here on, this thread gives the lock away only if a search releases it.
    sys.setswitchinterval(100)
    try:
        may_run.set()
        assert list(BUILT_IN["url_credentials"].spans("user@host ://a:b " * 580)) == []
        runs_during_search = runs[0]
    finally:
        sys.setswitchinterval(interval_s)
        thread.join()
    assert runs_during_search == 0


class TestResolvePatterns:
    def test_resolve_patterns_accepts_names_groups_and_expressions_once(self):
        found = resolve_patterns(
            ["email", "Credit-Card", "pii", r"ACME-\d+", re.compile("x", re.IGNORECASE)]
        )
        names = [pattern.name for pattern in found]
        assert names[:2] == ["email", "credit_card"]
        assert names[-2:] == [r"ACME-\d+", "(?i:x)"]
        assert len(names) == len(set(names)) == len(GROUPS["pii"]) + 2

    def test_resolve_patterns_suggests_nearest_name_for_typo(self):
        with pytest.raises(
            ValueError, match=r"Unknown pattern 'emial'. Did you mean 'email'\?.*'\(\?:emial\)'"
        ):
            resolve_patterns(["emial"])

    def test_resolve_patterns_treats_other_word_as_expression(self):
        (pattern,) = resolve_patterns(["projectx"])
        assert matches_in(pattern, "about projectx") == ["projectx"]

    def test_resolve_patterns_rejects_invalid_expression_with_reason(self):
        with pytest.raises(
            ValueError, match=r"must be valid regular expressions, got '\(a': missing \)"
        ):
            resolve_patterns(["(a"])

    def test_resolve_patterns_names_pip_command_when_regex_is_missing(self, monkeypatch):
        monkeypatch.setattr(matching, "_import_regex", lambda: None)
        with pytest.raises(ImportError, match=r"pip install 'llamatelemetry-core\[redaction\]'"):
            resolve_patterns([r"ACME-\d+"])
        assert resolve_patterns(["email"])

    def test_user_pattern_redacts_whole_match_despite_group_named_value(self):
        (pattern,) = resolve_patterns([r"id=(?P<value>\d+)"])
        assert matches_in(pattern, "id=12") == ["id=12"]

    def test_pattern_ignores_empty_matches(self):
        (pattern,) = resolve_patterns(["x*"])
        assert matches_in(pattern, "axxb") == ["xx"]


def with_check_digit(prefix: str, length: int) -> str:
    """Return a card number with this prefix and length, and a valid check digit."""
    digits = prefix.ljust(length - 1, "1")
    total = sum(
        sum(divmod(int(digit) * (2 if index % 2 == 0 else 1), 10))
        for index, digit in enumerate(reversed(digits))
    )
    return digits + str(-total % 10)


CARDS = [
    *(("4", length) for length in (13, 16, 19)),
    *(
        (prefix, 16)
        for prefix in ("51", "55", "2221", "2720", "60", "64", "65", "62", "3528", "3589")
    ),
    *((prefix, 15) for prefix in ("34", "37")),
    *((prefix, length) for prefix in ("300", "305", "36", "38", "39") for length in (14, 16)),
    *(("62", length) for length in (17, 18, 19)),
    *((prefix, length) for prefix in ("50", "56", "59", "67") for length in (13, 19)),
]
NO_CARDS = [
    *(("4", length) for length in (12, 14, 15, 17, 18)),
    *((prefix, 16) for prefix in ("2220", "2721", "306", "309", "3527", "3590", "61", "66", "68")),
    *(("51", length) for length in (15, 17)),
    *((prefix, 15) for prefix in ("33", "35")),
    *((prefix, 14) for prefix in ("34", "306")),
    *(("50", length) for length in (12, 20)),
]


@pytest.mark.parametrize(("prefix", "length"), CARDS)
def test_card_number_has_prefix_and_length_of_a_network(prefix, length):
    number = with_check_digit(prefix, length)
    assert card_length(number) == length
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert card_length(wrong) == 0


@pytest.mark.parametrize(("prefix", "length"), NO_CARDS)
def test_number_without_prefix_and_length_of_a_network_is_not_a_card(prefix, length):
    assert card_length(with_check_digit(prefix, length)) == 0


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("4111 1111 1111 1111", 19),
        ("4111-1111-1111-1111 123", 19),  # the security code is not a part of it
        ("4111 1111 1111 1111-123", 19),
        ("4111 1111 1111 1112 123", 0),
        ("4111 1111 1111 1111 12 3", 0),
    ],
)
def test_card_number_may_have_separators_and_a_security_code(text, length):
    assert card_length(text) == length


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("DE89370400440532013000", 22),
        ("de89 3704 0044 0532 0130 00", 27),
        ("DE89 3704 0044 0532 0130 00 and", 27),
        ("DE89370400440532013000-1", 22),
        ("DE893704004405320130001", 0),  # one digit too many
        ("DE8937040044053201300", 0),
        ("DE88370400440532013000", 0),
        ("XX89370400440532013000", 0),
        ("NO9386011117947", 15),
    ],
)
def test_iban_has_length_and_check_digits_of_its_country(text, length):
    assert iban_length(text) == length


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("192.0.2.7", 9),
        ("192.0.2.7:", 9),
        ("2001:db8::1", 11),
        ("2001:db8::", 10),
        ("2001:db8::1:", 11),
        ("127.0.0.1", 0),
        ("::1", 0),
        ("::", 0),
        ("0.0.0.0", 0),
        ("256.0.0.1", 0),
    ],
)
def test_ip_address_is_neither_loopback_nor_unspecified(text, length):
    assert ip_address_length(text) == length


@pytest.mark.parametrize(("text", "length"), [("a" * 31, 0), ("a" * 32, 32), ("abc1", 4), ("", 0)])
def test_bearer_token_has_a_digit_or_32_characters(text, length):
    assert bearer_token_length(text) == length

"""Adversarial texts: repeated near matches that are expensive for a pattern."""

from __future__ import annotations

ADVERSARIAL = {
    "email": ["a" * 64 + "@", "a@", "a@b.", "x@" + "a." * 9, "a.b-c+"],
    "phone": ["+1", "+1 2", "(", "202 555 ", "+" + "1" * 20 + " ", "1 (", "(202) 555-"],
    "ip": ["1.", "1.1.1.", "a:", "1:2:3:4:5:6:7:8:", "::", "f:" * 9 + " ", "255.255.255.2555 "],
    "credit_card": ["4", "4111 ", "4111 1111 1111 1112 ", "4111-1111-", "1" * 19 + " "],
    "iban": ["DE89 ", "DE", "DE89" + "A" * 40 + " ", "AA11 AA11-", "DE8937040044053201300 "],
    "us_ssn": ["123-45-", "123 ", "123-45-678 "],
    "private_key": ["-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----a-b--c", "-"],
    "jwt": ["eyJ", "eyJaaaaaaaa.", "eyJaaaaaaaa ", "eyJaaaaaaaa.."],
    "bearer_token": ["bearer ", "bearer aaaaaaa ", "Bearer\t"],
    "api_key": ["api_key=", "password:", "password = 'a ", "secret_key"],
    "url_credentials": [
        *("://", "://a", "://" + "a" * 255, "?key=", "&key", "?sig=" + "a" * 100, "&a_=token"),
        *("?" + "a" * 64, "?" + "key-" * 24, "?" + "%5B" * 32 + "=", "\\u0026", "%3Fsecret%3D"),
    ],
    "aws_key": ["AKIA", "aws_secret_access_key=", "AKIAIOSFODNN7EXAMPL "],
    "openai_key": ["sk-", "sk-aaaaaaaaaaaaaaaaaaa "],
    "anthropic_key": ["sk-ant-", "sk-ant-aaaaaaaaaaaaaaaaaaa "],
    "huggingface_token": ["hf_", "hf_" + "a" * 29 + " "],
    "github_token": ["ghp_", "github_pat_", "ghp_" + "a" * 35 + " "],
    "google_key": ["AIza", "ya29.", "AIza" + "a" * 36 + " "],
    "slack_token": ["xoxb-", "hooks.slack.com/services/", "xoxb-123 "],
    "azure_key": ["AccountKey=", "AccountKey=" + "a" * 39 + " ", "?sig="],
    "stripe_key": ["sk_live_", "whsec_", "sk_live_a "],
    "vendor_key": ["npm_", "gsk_", "1" * 10 + ":AA", "SG.", "SG." + "a" * 22 + "."],
}


def repeated(unit: str, length: int) -> str:
    """Return the unit repeated up to a length."""
    return (unit * (length // len(unit) + 1))[:length]

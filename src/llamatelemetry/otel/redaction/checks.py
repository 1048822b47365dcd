"""Validity checks that a regular expression cannot express: check digits, lengths, addresses.

Each function gets a match and returns how many of its leading characters are valid, 0 for none.
"""

from __future__ import annotations

import ipaddress
from functools import cache

# Prefixes and lengths of card networks: ISO/IEC 7812 and the networks' documentation.
_BRANDS: tuple[tuple[range, int, frozenset[int]], ...] = (
    (range(4, 5), 1, frozenset({13, 16, 19})),  # Visa
    (range(51, 56), 2, frozenset({16})),  # Mastercard
    (range(2221, 2721), 4, frozenset({16})),  # Mastercard
    (range(34, 35), 2, frozenset({15})),  # American Express
    (range(37, 38), 2, frozenset({15})),
    (range(300, 306), 3, frozenset({14, 16})),  # Diners Club
    (range(36, 37), 2, frozenset({14, 16, 19})),
    (range(38, 40), 2, frozenset({14, 16, 19})),
    (range(3528, 3590), 4, frozenset({16, 19})),  # JCB
    (range(60, 61), 2, frozenset({16, 19})),  # Discover, RuPay
    (range(64, 66), 2, frozenset({16, 19})),
    (range(62, 63), 2, frozenset({16, 17, 18, 19})),  # UnionPay
    (range(50, 51), 2, frozenset(range(13, 20))),  # Maestro
    (range(56, 60), 2, frozenset(range(13, 20))),
    (range(67, 68), 2, frozenset(range(13, 20))),
)

# Length by country, from the SWIFT registry of IBAN formats.
_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH CR HR LI LV",
    22: "BG BH DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_LENGTHS = {
    country: length
    for length, countries in _IBAN_COUNTRIES.items()
    for country in countries.split()
}


_IBAN_DIGITS = {ord("A") + n: str(10 + n) for n in range(26)}

_NO_SEPARATORS = str.maketrans("", "", " -")
_DOUBLED = bytes(sum(divmod(2 * max(0, code - 48), 10)) % 256 for code in range(256))
"""Digit sum of the doubled value, indexed by the ASCII code of a digit."""


def card_length(text: str) -> int:
    """Return the length of a payment card number: known prefix and length, valid Luhn digit."""
    if _is_card(text):
        return len(text)
    # The last group may be the security code (CVV).
    shorter = max(text.rfind(" "), text.rfind("-"))
    return shorter if shorter > 0 and _is_card(text[:shorter]) else 0


def _is_card(text: str) -> bool:
    digits = text.translate(_NO_SEPARATORS)
    if not digits.isascii() or len(digits) not in _lengths_by_prefix()[int(digits[:4])]:
        return False
    codes = digits.encode()
    undoubled = codes[-1::-2]
    checksum = sum(undoubled) - 48 * len(undoubled) + sum(codes[-2::-2].translate(_DOUBLED))
    return checksum % 10 == 0


@cache
def _lengths_by_prefix() -> list[frozenset[int]]:
    """Return the valid lengths of a card number, indexed by its first four digits."""
    return [
        frozenset[int]().union(
            *(lengths for known, size, lengths in _BRANDS if prefix // 10 ** (4 - size) in known)
        )
        for prefix in range(10_000)
    ]


def iban_length(text: str) -> int:
    """Return the length of an IBAN with its country's length and valid check digits.

    The check digits are those of ISO 7064, mod 97-10.
    """
    wanted = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    if not wanted:
        return 0
    number = text.translate(_NO_SEPARATORS)[:wanted].upper()
    if len(number) < wanted or not number.isascii():
        return 0
    if int((number[4:] + number[:4]).translate(_IBAN_DIGITS)) % 97 != 1:
        return 0
    end = _end_of(text, wanted)
    return 0 if text[end : end + 1].isalnum() else end


def _end_of(text: str, count: int) -> int:
    """Return the end of the first `count` characters, separators not counted."""
    for at, character in enumerate(text):
        count -= character not in " -"
        if count == 0:
            return at + 1
    return len(text)


def ip_address_length(text: str) -> int:
    """Return the length of an IP address; 0 for loopback and unspecified addresses."""
    candidate = text.rstrip(":") if not text.endswith("::") else text
    try:
        address = ipaddress.ip_address(candidate)
    except ValueError:
        return 0
    return 0 if address.is_loopback or address.is_unspecified else len(candidate)


def bearer_token_length(text: str) -> int:
    """Return the length of a token: it has a digit or at least 32 characters.

    Anything else behind "bearer" is taken for a word of a sentence.
    """
    return len(text) if len(text) >= 32 or any(map(str.isdigit, text)) else 0

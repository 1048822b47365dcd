"""Checks that a regular expression cannot make: check digits, addresses, lengths.

Each takes what an expression has found and gives how many of its characters, from the first,
really are such a thing; 0 is none.
"""

from __future__ import annotations

import ipaddress

# Prefixes and lengths of the networks: ISO/IEC 7812 and what the networks publish.
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

# Length by country: the SWIFT registry of IBAN formats.
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


_NO_SEPARATORS = str.maketrans("", "", " -")
_LENGTHS_BY_PREFIX = [
    frozenset[int]().union(
        *(lengths for prefixes, size, lengths in _BRANDS if prefix // 10 ** (4 - size) in prefixes)
    )
    for prefix in range(10_000)
]
"""For every first four digits, the lengths that a card number beginning with them may have."""
_DOUBLED = bytes(sum(divmod(2 * max(0, code - 48), 10)) % 256 for code in range(256))
"""For the code of each digit, the sum of the digits of twice its value."""


def card(text: str) -> int:
    """A payment card number: a network's prefix and length, and the Luhn check digit."""
    if _is_card(text):
        return len(text)
    # The last group may be the security code.
    shorter = max(text.rfind(" "), text.rfind("-"))
    return shorter if shorter > 0 and _is_card(text[:shorter]) else 0


def _is_card(text: str) -> bool:
    digits = text.translate(_NO_SEPARATORS)
    if not digits.isascii() or len(digits) not in _LENGTHS_BY_PREFIX[int(digits[:4])]:
        return False
    codes = digits.encode()
    undoubled = codes[-1::-2]
    checksum = sum(undoubled) - 48 * len(undoubled) + sum(codes[-2::-2].translate(_DOUBLED))
    return checksum % 10 == 0


_IBAN_DIGITS = {ord("A") + n: str(10 + n) for n in range(26)}


def iban(text: str) -> int:
    """An IBAN: the length of its country, and the check digits (ISO 7064, mod 97)."""
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
    """Where the first `count` characters end that are no separators."""
    for at, character in enumerate(text):
        count -= character not in " -"
        if count == 0:
            return at + 1
    return len(text)


def ip_address(text: str) -> int:
    """An IP address that is somebody's: not the loopback one, and not the unspecified one."""
    candidate = text.rstrip(":") if not text.endswith("::") else text
    try:
        address = ipaddress.ip_address(candidate)
    except ValueError:
        return 0
    return 0 if address.is_loopback or address.is_unspecified else len(candidate)


def bearer(text: str) -> int:
    """A token rather than the next word of a sentence: it has a digit, or is very long."""
    return len(text) if len(text) >= 32 or any(map(str.isdigit, text)) else 0

"""Checks that a regular expression cannot make: check digits, addresses, lengths.

Each takes what an expression has found and gives how many of its characters, from the first,
really are such a thing; 0 is none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

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
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (
        entry.split(":")
        for entry in (
            "15:NO 16:BE 18:DK,FI,FK,FO,GL,NL,SD 19:MK,SI 20:AT,BA,EE,KZ,LT,LU,MN,XK "
            "21:CH,CR,HR,LI,LV 22:BG,BH,DE,GB,GE,IE,ME,RS,VA 23:AE,GI,IL,IQ,OM,SO,TL "
            "24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG 25:LY,PT,ST 26:IS,TR "
            "27:BI,DJ,FR,GR,IT,MC,MR,SM 28:AL,AZ,BY,CY,DO,GT,HN,HU,LB,NI,PL,SV "
            "29:BR,EG,PS,QA,UA 30:JO,KW,MU,YE 31:MT,SC 32:LC 33:RU"
        ).split()
    )
    for country in countries.split(",")
}


def card(text: str) -> int:
    """A payment card number: a network's prefix and length, and the Luhn check digit."""
    return next((end for end in _ends_of_groups(text) if _is_card(text[:end])), 0)


def _ends_of_groups(text: str) -> Iterator[int]:
    """The whole first; then without the last group, which may be a security code."""
    yield len(text)
    shorter = max(text.rfind(" "), text.rfind("-"))
    if shorter > 0:
        yield shorter


def _is_card(text: str) -> bool:
    digits = "".join(character for character in text if character.isdigit())
    known = any(
        digits[:size].isdigit() and int(digits[:size]) in prefixes and len(digits) in lengths
        for prefixes, size, lengths in _BRANDS
    )
    return known and _luhn(digits)


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(int(digit) for digit in digits[-1::-2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> int:
    """An IBAN: the length of its country, and the check digits (ISO 7064, mod 97)."""
    wanted = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    kept = [at for at, character in enumerate(text) if character.isalnum()]
    if not wanted or len(kept) < wanted:
        return 0
    end = kept[wanted - 1] + 1
    if text[end : end + 1].isalnum():
        return 0
    number = "".join(text[at] for at in kept[:wanted])
    rearranged = "".join(str(int(character, 36)) for character in number[4:] + number[:4])
    return end if int(rearranged) % 97 == 1 else 0


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

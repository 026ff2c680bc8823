"""Likely secrets and personal data in rows: warnings only, with the find masked.

Patterns are those of well-known key formats and of addresses and numbers whose own check digits can be tested. A
cheap look for a telling substring comes before each pattern, so that clean rows cost little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from llmtune.data.example import Example
from llmtune.data.findings import Finding, warning
from llmtune.data.hashing import turn_text
from llmtune.redaction.secrets import Secrets

_Secret = tuple[str, str, re.Pattern[str]]
#: (what it is, a telling substring, the pattern), by a character that each of the group holds: looking for one
#: character costs next to nothing, so most rows are done with after a few such looks.
_SECRETS: tuple[tuple[str, tuple[_Secret, ...]], ...] = (
    (
        "A",
        (
            ("an AWS access key", "AKIA", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
            ("an AWS access key", "ASIA", re.compile(r"\bASIA[0-9A-Z]{16}\b")),
            ("a Google API key", "AIza", re.compile(r"\bAIza[A-Za-z0-9_-]{35}")),
        ),
    ),
    (
        "-",
        (
            ("an API key", "sk-", re.compile(r"\bsk-[A-Za-z0-9_-]{20,}")),
            ("a GitLab token", "glpat-", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
            ("a Slack token", "xox", re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}")),
            ("a private key", "-----BEGIN", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
        ),
    ),
    (
        "_",
        (
            ("a live payment key", "k_live_", re.compile(r"\b[sr]k_live_[A-Za-z0-9]{16,}")),
            ("a GitHub token", "gh", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}")),
            ("a GitHub token", "github_pat_", re.compile(r"\bgithub_pat_[A-Za-z0-9_]{40,}")),
            ("a Hugging Face token", "hf_", re.compile(r"\bhf_[A-Za-z0-9]{30,}")),
        ),
    ),
    (
        "J",
        (
            (
                "a signed token (JWT)",
                "eyJ",
                re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
            ),
        ),
    ),
)

_EMAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}\b")
_DIGITS = re.compile(r"\d[\d ().-]{7}")
_CARD = re.compile(
    r"(?<![\w.+*/=-])(?:[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\w*/=-]|\.\d)"
)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_PHONE = re.compile(r"(?<![\w+])\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?!\d)|(?<![\d(])\(\d{3}\) ?\d{3}[-.]\d{4}(?!\d)")
_IBAN_HINT = re.compile(r"\b[A-Z]{2}\d{2}[ ]?[A-Z0-9]{4}[ ]?[A-Z0-9]{4}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b")
#: Domains kept for examples (RFC 2606), which are nobody's.
_NOBODY = re.compile(r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|[\w-]+\.(?:example|test|invalid|localhost))$", re.I)


def _luhn(number: str) -> bool:
    digits = [int(mark) for mark in number if mark.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return total % 10 == 0


def _iban(text: str) -> bool:
    packed = text.replace(" ", "")
    if not 15 <= len(packed) <= 34:
        return False
    return int("".join(str(int(mark, 36)) for mark in packed[4:] + packed[:4])) % 97 == 1


def _phone(text: str) -> bool:
    return 9 <= sum(mark.isdigit() for mark in text) <= 15


def masked(text: str) -> str:
    """The first characters of a find, the rest as dots: enough to find it again, not enough to use it."""
    shown = min(4, len(text) // 4)
    return f"{text[:shown]}{'.' * min(len(text) - shown, 8)}"


def scan(text: str) -> Iterator[tuple[str, str, str]]:  # noqa: C901
    """(code, what it is, the find masked) of everything suspicious in a text, each kind once."""
    for mark, group in _SECRETS:
        if mark not in text:
            continue
        for name, hint, pattern in group:
            if hint in text:
                found = pattern.search(text)
                if found is not None:
                    yield "secret", name, masked(found.group())
    if "@" in text:
        for found in _EMAIL.finditer(text):
            if not _NOBODY.search(found.group()):
                yield "personal-data", "an e-mail address", masked(found.group())
                break
    if not _has_digits(text):
        return
    if _DIGITS.search(text) is not None:
        for name, pattern, test in _NUMBERS:
            for found in pattern.finditer(text):
                if test(found.group()):
                    yield "personal-data", name, masked(found.group())
                    break
    if _IBAN_HINT.search(text) is not None:
        for found in _IBAN.finditer(text):
            if _iban(found.group()):
                yield "personal-data", "a bank account number (IBAN)", masked(found.group())
                break


def _has_digits(text: str) -> bool:
    # ten looks for one character are far faster than one for a class of characters
    return any(digit in text for digit in "0123456789")


def _always(_: str) -> bool:
    return True


_NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("a payment card number", _CARD, _luhn),
    ("a US social security number", _SSN, _always),
    ("a telephone number", _PHONE, _phone),
)


def check_privacy(example: Example, known: Secrets | None = None) -> list[Finding]:
    """One warning for each kind of secret or personal data in a row, and for a credential that is `known` here."""
    if example.text is not None:
        text = example.text
    else:
        turns = example.messages
        if example.preference is not None:
            turns = (*turns, *example.preference.preferred, *example.preference.rejected)
        text = "\n".join([turn_text(message) for message in turns])
    source = known.source_in(text) if known is not None else None
    found = [] if source is None else [("secret", f"the value of {source}", "***")]
    return [
        warning(
            code,
            f"the row seems to hold {name}: {find}",
            "take it out, and revoke it" if code == "secret" else "take it out, or be sure that you may use it",
        )
        for code, name, find in (*found, *scan(text))
    ]

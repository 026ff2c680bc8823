"""Likely secrets and personal data in rows: warnings only, with the match masked.

Patterns are those of well-known key formats and of addresses and numbers whose own check digits can be tested. A
cheap search for a typical substring comes before each pattern, so that clean rows cost little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from llmtune.data.example import Example
from llmtune.data.findings import Finding, warning
from llmtune.data.hashing import turn_text
from llmtune.redaction.secrets import Secrets

_Secret = tuple[str, str, re.Pattern[str]]
#: (name, typical substring, pattern), by a character that every secret of the group contains: searching for one
#: character costs next to nothing, so most rows are done after a few such searches.
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
#: Domains reserved for examples (RFC 2606), which belong to nobody.
_EXAMPLE_DOMAIN = re.compile(
    r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|[\w-]+\.(?:example|test|invalid|localhost))$", re.I
)


def _is_card_number(number: str) -> bool:
    """Return whether the check digit is right (Luhn algorithm)."""
    digits = [int(mark) for mark in number if mark.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return total % 10 == 0


def _is_iban(text: str) -> bool:
    """Return whether the check digits are right (ISO 13616: the number modulo 97 is 1)."""
    packed = text.replace(" ", "")
    if not 15 <= len(packed) <= 34:
        return False
    return int("".join(str(int(mark, 36)) for mark in packed[4:] + packed[:4])) % 97 == 1


def _is_phone_number(text: str) -> bool:
    return 9 <= sum(mark.isdigit() for mark in text) <= 15


def masked(text: str) -> str:
    """Return the first characters of a secret with dots for the others: enough to find it again, not to use it."""
    clear = min(4, len(text) // 4)
    return f"{text[:clear]}{'.' * min(len(text) - clear, 8)}"


def scan(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (finding code, name of the kind, masked match) for everything suspicious in a text, once per kind."""
    for mark, group in _SECRETS:
        if mark not in text:
            continue
        for name, hint, pattern in group:
            if hint in text and (match := pattern.search(text)) is not None:
                yield "secret", name, masked(match.group())
    if "@" in text:
        address = _find_valid(_EMAIL, text, _is_real_address)
        if address is not None:
            yield "personal-data", "an e-mail address", masked(address)
    if not _has_digits(text):
        return
    for hint_pattern, numbers in _NUMBERS:
        if hint_pattern.search(text) is not None:
            for name, pattern, is_valid in numbers:
                number = _find_valid(pattern, text, is_valid)
                if number is not None:
                    yield "personal-data", name, masked(number)


def _find_valid(pattern: re.Pattern[str], text: str, is_valid: Callable[[str], bool]) -> str | None:
    return next((match.group() for match in pattern.finditer(text) if is_valid(match.group())), None)


def _is_real_address(address: str) -> bool:
    return _EXAMPLE_DOMAIN.search(address) is None


def _has_digits(text: str) -> bool:
    # ten searches for one character are far faster than one for a class of characters
    return any(digit in text for digit in "0123456789")


def _is_any(_: str) -> bool:
    return True


#: (name, pattern, validity test) of numbers, by a cheaper pattern that every one of the group also matches.
_NUMBERS: tuple[tuple[re.Pattern[str], tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]], ...] = (
    (
        _DIGITS,
        (
            ("a payment card number", _CARD, _is_card_number),
            ("a US social security number", _SSN, _is_any),
            ("a telephone number", _PHONE, _is_phone_number),
        ),
    ),
    (_IBAN_HINT, (("a bank account number (IBAN)", _IBAN, _is_iban),)),
)


def check_privacy(example: Example, secrets: Secrets | None = None) -> list[Finding]:
    """Return one warning per kind of secret or personal data in a row; `secrets` are this machine's credentials."""
    if example.text is not None:
        text = example.text
    else:
        turns = example.messages
        if example.preference is not None:
            turns = (*turns, *example.preference.preferred, *example.preference.rejected)
        text = "\n".join([turn_text(message) for message in turns])
    source = secrets.find_source(text) if secrets is not None else None
    matches = [] if source is None else [("secret", f"the value of {source}", "***")]
    return [
        warning(
            code,
            f"the row seems to hold {name}: {match}",
            "take it out, and revoke it" if code == "secret" else "take it out, or be sure that you may use it",
        )
        for code, name, match in (*matches, *scan(text))
    ]

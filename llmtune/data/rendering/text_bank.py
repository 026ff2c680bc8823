"""Texts in which tokenizers differ: each is read by a model's own tokenizer and by a server's, and compared."""

from __future__ import annotations

#: Kind of text -> texts.
TEXTS: dict[str, tuple[str, ...]] = {
    "contractions": (
        "I'm sure they've said we'd see it's what you're here for, don't they'll",
        "o'sullivan's d'accord",
    ),
    "contractions in capitals": (
        "I'M SURE THEY'VE SAID WE'D SEE IT'S WHAT YOU'RE HERE FOR, DON'T THEY'LL",
        "O'SULLIVAN O'DONNELL D'ACCORD ROCK'REEL THE'VERSE L'LAMA",
        "Don'T we'Re",
    ),
    "emoji": ("🎉 done 👩‍👩‍👧 👍🏽 🏳️‍🌈", "ok🙂🙂🙂ok"),
    "digits": (
        "1 12 123 1234 12345 1234567890",
        "3.14159 and 1,000,000 or 0x7F",
        "v1.2.3-rc4 2026-11-30T12:34:56",
        "½ ² ٣ ४",
    ),
    "scripts without blanks": ("你好,世界。今天天气怎么样?", "こんにちは、カタカナ", "สวัสดีครับ", "한국어 문장입니다"),
    "other scripts": ("Привет, мир! Ёлка", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "Γειά σου Κόσμε"),
    "accents": ("naïve café über straße Ñandú Œuvre", "ﬁne ĳs ǅ ſharp"),
    "decomposed accents": ("nai\u0308ve cafe\u0301 u\u0308ber",),
    "blanks": ("a  b   c    d", "\ta\tb\t\tc", "trailing  ", "   leading", "non\u00a0breaking\u2003em\u200bzero"),
    "line breaks": ("a\nb\n\nc\n\n\nd", "a\r\nb\r\n\r\nc", " \n \n  x", "end\n\n", "\n\n\tindented"),
    "code": (
        "def f(x):\n    return x**2  # squared\n\n\nif __name__ == '__main__':\n    print(f(2))",
        "SELECT * FROM t WHERE a>=1 AND b!='x';",
        '{"key": ["value", 1.5e-3, null], "nested": {"a": true}}',
        '<div class="a">&amp;</div>',
    ),
    "addresses": ("https://example.com/a?b=c&d=%20#e", "first.last+tag@example.co.uk", "C:\\Users\\x\\file.txt"),
    "marks": (
        "!!! ??? ... --- *** ((([[[{{{",
        "“quoted” ‘single’ «guillemets» — – …",
        "a/b\\c|d~e`f^g_h",
        "$5.00 €3 £2 100%",
    ),
    "mixed case": ("camelCase PascalCase SCREAMING_CASE kebab-case iPhone McDonald", "ABCdefGHI aBcD"),
}


def all_texts() -> list[tuple[str, str]]:
    """Return each text with its kind, in order."""
    return [(kind, text) for kind, texts in TEXTS.items() for text in texts]


def describe_differences(kinds: list[tuple[str, str]]) -> str:
    """Return which of the texts differ, by kind, with one of each, as the end of a sentence."""
    examples: dict[str, list[str]] = {}
    for kind, text in kinds:
        examples.setdefault(kind, []).append(text)
    return "; ".join(
        f"{kind} ({len(texts)} of {len(TEXTS[kind])}, such as {texts[0][:40]!r})" for kind, texts in examples.items()
    )

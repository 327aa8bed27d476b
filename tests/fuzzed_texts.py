"""Texts of all that tokenizers treat apart, drawn at random."""

import random
import unicodedata

# Latin with accents both ways, Greek, Cyrillic, Arabic, Devanagari, Thai, ideographs, kana, Hangul.
SCRIPTS = (
    (0x20, 0x7F),
    (0xC0, 0x24F),
    (0x300, 0x36F),
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x600, 0x6FF),
    (0x900, 0x97F),
    (0xE00, 0xE7F),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0x20000, 0x2A6DF),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1FAFF),
    (0xFE00, 0xFE0F),
    (0x2000, 0x206F),
    (0x00, 0x1F),
    (0x7F, 0x9F),
    (0xE000, 0xE0FF),
    (0xFFF0, 0xFFFF),
)
WHOLE = (
    "[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[mask]", "##ing", "n't", "\u200d", "\ufeff",
    "👩🏽\u200d🚀", "ﬁ", "İ", "ß", "ẞ", "\u2028", "\t\r\n", "\u00a0", "e\u0301", "Å", "１２", "…",
)  # fmt: skip


def draw_texts(count: int, seed: int, words: list[str]) -> list[str]:
    """Draws texts; some are empty, some have words over 100 letters.

    Args:
        count: How many.
        seed: Decides them.
        words: What is mixed in as it is, upper-cased and run together.
    """
    draw = random.Random(seed)
    return ["".join(_draw_parts(draw, words)) for _ in range(count)]


def _draw_parts(draw: random.Random, words: list[str]) -> list[str]:
    parts = []
    for _ in range(draw.choice((0, 1, 2, 5, 10, 20))):
        kind = draw.random()
        if kind < 0.45:
            word = draw.choice(words)
            parts.append(draw.choice((word, word.upper(), word.title(), word + draw.choice(words))))
        elif kind < 0.55:
            parts.append(draw.choice(WHOLE))
        elif kind < 0.6:
            parts.append(draw.choice("aZé中") * draw.randint(95, 130))
        elif kind < 0.65:
            form = draw.choice(("NFC", "NFD", "NFKD"))
            parts.append(unicodedata.normalize(form, _draw_letters(draw, SCRIPTS[1])))
        else:
            parts.append(_draw_letters(draw, draw.choice(SCRIPTS)))
        parts.append(draw.choice((" ", " ", " ", "", "  ", "\n", "-", ". ")))
    return parts


def _draw_letters(draw: random.Random, block: tuple[int, int]) -> str:
    return "".join(chr(draw.randint(*block)) for _ in range(draw.randint(1, 8)))

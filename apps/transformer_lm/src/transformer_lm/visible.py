"""Text that may go to a terminal: what would command it, or turn its text around, is shown and not sent.

A model of bytes can write any of them, and a terminal obeys whoever writes.
"""

# C0 but newline and tab, delete, C1 (ECMA-48); the overrides and isolates of the bidirectional algorithm (UAX #9).
_COMMANDING = [*range(0x00, 0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)]
_TURNING = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPED = {code: chr(code).encode("unicode_escape").decode() for code in (*_COMMANDING, *_TURNING)}


def visible(text: str) -> str:
    r"""The text with control characters as Python spells them, such as `\x1b`; newline and tab stay."""
    return text.translate(_ESCAPED)

"""Write, or check, the table of character classes that the tokenizer's patterns stand on.

    uv run --with unicodedata2==16.0.0 python tools/unicode_classes.py write|check

Unicode 16 is what `tokenizers` and `tiktoken` know; Python's own tables differ from one Python to the next.
"""

import itertools
import sys
from pathlib import Path

TABLE = Path(__file__).resolve().parents[1] / "packages/lm-tokenizer/src/lm_tokenizer/unicode16.txt"
# The property White_Space: what \s means in Rust's and Oniguruma's expressions. Python's own \s has 0x1C-0x1F as well.
WHITE_SPACE = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
CLASS_OF = {"Lu": "U", "Lt": "U", "Ll": "L", "Lm": "O", "Lo": "O"} | dict.fromkeys(("Mn", "Mc", "Me"), "M")


def table() -> str:
    """One line a run of characters of one class: its first code point in hexadecimal and its class."""
    from unicodedata2 import category, unidata_version

    assert unidata_version == "16.0.0", unidata_version

    def class_of(code: int) -> str:
        if code in WHITE_SPACE:
            return "S"
        name = category(chr(code))
        return CLASS_OF.get(name, "N" if name[0] == "N" else ".")

    runs = itertools.groupby(range(0x110000), class_of)
    return "".join(f"{next(run):x} {name}\n" for name, run in runs)


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        TABLE.write_text(table())
    elif sys.argv[1:] == ["check"]:
        sys.exit(0 if TABLE.read_text() == table() else f"{TABLE.name} is not what Unicode 16 says: write it anew")
    else:
        sys.exit(__doc__)

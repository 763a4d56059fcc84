"""What goes wrong in a tokenizer, in one line that says what, where and what to do."""


class TokenizerError(ValueError):
    """A mistake in a text, a vocabulary, a file or an argument; the message is one line for a person to act on."""


class SpecialTokenError(TokenizerError):
    """A text holds a special token that the caller did not allow."""

    def __init__(self, token: str, position: int) -> None:
        self.token = token
        self.position = position
        super().__init__(
            f"the text holds the special token {token!r} at character {position}: "
            f"pass allowed_special={{{token!r}}} to encode it as one id, or disallowed_special=() to encode it as text"
        )

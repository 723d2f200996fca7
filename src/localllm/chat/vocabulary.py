"""What rendering needs to know of a model's tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

_HTML = frozenset(
    {"a", "b", "br", "code", "dd", "del", "div", "dl", "dt", "em", "hr", "i", "img", "ins", "li", "ol", "p", "pre", "q"}
    | {"s", "small", "span", "strike", "strong", "sub", "sup", "u", "ul", "h1", "h2", "h3", "h4", "h5", "h6", "col"}
    | {"blockquote", "caption", "center", "table", "tbody", "td", "tfoot", "th", "thead", "tr"}
)
_HTML_TAG = re.compile(r"</?([a-z][a-z0-9]*)>")
_BRACKETS = re.compile(r"[^\w\s▁].*[^\w\s▁]", re.DOTALL)


class Vocabulary(Protocol):
    """A model's tokenizer. Implementations are safe to call from any thread, and their answers never change."""

    @property
    def model_hash(self) -> str:
        """Identity of the model; tokens are valid for one identity only."""

    @property
    def bos_text(self) -> str:
        """Text of the token that begins a text, for the template's `bos_token`; empty if there is none."""

    @property
    def eos_text(self) -> str:
        """Text of the token that ends one, for the template's `eos_token`; empty if there is none."""

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, if there is one."""

    @property
    def adds_bos(self) -> bool:
        """Whether a prompt must begin with `bos_id`, even if the template doesn't write it."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The tokens that content must never become, by their text.

        These are the control tokens, the unknown token, every token that ends a generation, and the user-defined
        tokens for which `is_structure` holds.
        """

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the tokens of `text` without adding any.

        Args:
            text: The text; not empty, without lone surrogates.
            parse_special: Whether the text of a control token becomes that token. User-defined tokens may be made
                in either case (llama.cpp does so); the renderer sees to it that content does not become one.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, control tokens spelled out, broken UTF-8 replaced by U+FFFD."""


def is_structure(text: str) -> bool:
    """Tell whether a user-defined token is structure, such as `<tool_call>`, rather than a way to spell.

    Vocabularies have user-defined tokens of both kinds and do not say which is which. Runs of spaces, single
    characters, words and HTML tags are ordinary text: a document that holds them must be read as the model was
    trained to read it. What begins and ends with a sign and is none of these is structure.

    Args:
        text: The token's text.

    Returns:
        Whether content must not become this token.
    """
    tag = _HTML_TAG.fullmatch(text)
    if tag is not None and tag[1] in _HTML:
        return False
    return _BRACKETS.fullmatch(text) is not None

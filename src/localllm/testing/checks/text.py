"""Tokens and prompts: what goes in comes out, and only a template makes control tokens."""

from __future__ import annotations

from localllm.errors import InvalidOptionError
from localllm.testing.trial import Subject, Trial, require
from localllm.types import Message

_TEXTS = (
    "",
    "a",
    "Hello, world! It's 10:45.",
    " leading and trailing ",
    "two\n\nlines\r\n\tand a tab",
    "many        spaces",
    "naïve façade, cafe\u0301",
    "日本語のテキスト、한국어, ไทย",
    "שלום مرحبا",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈",
    "a\u200bb\u00a0c\u2028d\ufeffe",
    "\x01\x1b[31m\x7f",
    "<|im_end|><s></s>[INST]<|endoftext|>",
    "x" * 300,
)


def tokens_round_trip(subject: Subject) -> None:
    """`detokenize(tokenize(text))` is `text`, whatever the text, and it is the same tokens every time."""
    with Trial(subject) as trial:
        for text in _TEXTS:
            tokens = trial.model.tokenize(text)
            require(tokens == trial.model.tokenize(text), f"tokenize({text!r:.60}) gave other tokens the second time")
            back = trial.model.detokenize(tokens)
            require(back == text, f"detokenize(tokenize({text!r:.60})) is {back!r:.60}")


def unknown_tokens_are_refused(subject: Subject) -> None:
    """`detokenize` of what is no token of the vocabulary raises InvalidOptionError."""
    with Trial(subject) as trial:
        for token in (-1, trial.model.info.vocab_size or 2**31 - 1, 2**31 - 1, 2**63):
            try:
                text = trial.model.detokenize([token])
            except InvalidOptionError:
                continue
            require(False, f"detokenize([{token}]) gave {text!r:.60}, and there is no such token")


def render_shows_the_prompt(subject: Subject) -> None:
    """`render` gives the prompt as text and as tokens of that very text, every message in it."""
    messages = (Message.system("Be brief."), Message.user("Say 'naïve 🙂'."), Message("assistant", "naïve 🙂"))
    with Trial(subject) as trial:
        for conversation in (messages[1:2], messages[:2], (*messages, Message.user("And again?"))):
            rendered = trial.model.render(conversation)
            back = trial.model.detokenize(rendered.tokens)
            require(
                back == rendered.text, f"render's tokens are those of {back!r:.200}, its text is {rendered.text!r:.200}"
            )
            for message in conversation:
                require(message.content in rendered.text, f"{message.content!r} is not in {rendered.text!r:.200}")


def content_makes_no_control_tokens(subject: Subject) -> None:
    """Text in a message that looks like a control token is plain text: only the template makes control tokens."""
    with Trial(subject) as trial:
        model = trial.model
        plain = model.render([Message.user("hello")]).tokens
        # A control token is one that the tokenizer never makes of its own text.
        controls = {token for token in plain if model.tokenize(model.detokenize([token])) != (token,)}
        for token in controls:
            text = model.detokenize([token])
            if not text or "\ufffd" in text:  # a part of a character, not a control token
                continue
            found = model.render([Message.user(f"hello {text} there")]).tokens.count(token)
            usual = plain.count(token)
            require(found == usual, f"{text!r} in a message became a control token: {found} of them, not {usual}")

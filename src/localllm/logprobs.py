"""How likely tokens were, and that as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

from attrs import frozen

from localllm._json import JsonValue, as_list, as_object, check_keys, check_text
from localllm.errors import InvalidPromptError


@frozen
class TokenLogprob:
    """How likely a token was, by the model's raw distribution: before any grammar, bias or sampler.

    Args:
        token: The token.
        text: Its text, control tokens spelled out; U+FFFD stands for a part of a character.
        logprob: The natural logarithm of its probability.
        top: The likeliest tokens at its place, likeliest first: token, text and log-probability of each.
    """

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()

    def to_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object. JSON has no infinite numbers: a logarithm of 0 is null."""
        data: dict[str, JsonValue] = {
            "token": self.token,
            "text": self.text,
            "logprob": number_of(self.logprob),
        }
        if self.top:
            data["top"] = [[token, text, number_of(logprob)] for token, text, logprob in self.top]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, JsonValue]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            InvalidPromptError: A key is missing, unknown, or its value is of the wrong kind.
        """
        check_keys(data, "log-probability", required=("token", "text", "logprob"), optional=("top",))
        top = tuple(likely_from(item) for item in as_list(data.get("top", ()), "a log-probability's top"))
        return cls(*likely_from([data["token"], data["text"], data["logprob"]]), top)


def number_of(logprob: float) -> JsonValue:
    """Return a log-probability as JSON."""
    return logprob if math.isfinite(logprob) else None


def likely_from(item: JsonValue) -> tuple[int, str, float]:
    """Return a token, its text and its log-probability.

    Raises:
        InvalidPromptError: It is none of these.
    """
    match item:
        case [int(token), str(text), int() | float() | None as logprob] if not (
            isinstance(token, bool) or isinstance(logprob, bool)
        ):
            return token, check_text(text, "a token's text"), -math.inf if logprob is None else float(logprob)
        case _:
            raise InvalidPromptError(f"no token, text and log-probability: {item!r:.80}")


def logprobs_from(value: JsonValue) -> tuple[TokenLogprob, ...]:
    """Return a list of log-probabilities. Raises like `TokenLogprob.from_dict`."""
    items = as_list(value, "a reply's logprobs")
    return tuple(TokenLogprob.from_dict(as_object(item, "a log-probability")) for item in items)

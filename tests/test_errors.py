"""The exception tree: as it is drawn, each a builtin that a caller would expect, each with a reply if there is one."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator

import pytest

import localllm
from localllm import LocalLLMError, Message, Reply, Timings, Usage, errors


def _drawn() -> Iterator[tuple[str, str | None, str | None]]:
    """Name, parent and own builtin of each line of the tree in the docstring."""
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.search(r"(\w+Error)(?: \((\w+)\))? {2,}", line)
        if found is not None:
            depth = found.start()
            path = [(at, name) for at, name in path if at < depth]
            yield found[1], path[-1][1] if path else None, found[2]
            path.append((depth, found[1]))


def test_the_drawn_tree_is_the_real_one() -> None:
    """Every class of the module is drawn, below its parent and with its builtin."""
    drawn = list(_drawn())
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert {name for name, _, _ in drawn} == classes
    for name, parent, builtin in drawn:
        found = getattr(errors, name)
        assert builtin is None or issubclass(found, getattr(builtins, builtin)), name
        assert parent is None or getattr(errors, parent) in found.__bases__, name


@pytest.mark.parametrize("name", [name for name, _, _ in _drawn()])
def test_every_error_is_public_and_holds_message_and_reply(name: str) -> None:
    """One root to catch them all; `.reply` is None unless a reply was begun."""
    kind = getattr(localllm, name)
    assert issubclass(kind, LocalLLMError)
    plain = kind("what happened")
    assert (str(plain), plain.message, plain.reply) == ("what happened", "what happened", None)
    reply = Reply("x", Message("assistant", "x"), "error", Usage(), Timings())
    assert kind("what happened", reply=reply).reply is reply


def test_an_overflow_has_both_counts() -> None:
    """For who wants to say more than the message."""
    error = localllm.ContextOverflowError("too long", prompt_tokens=9, context_tokens=8)
    assert (error.prompt_tokens, error.context_tokens) == (9, 8)

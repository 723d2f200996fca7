"""Vocabularies prepared for grammars: text is spelled with ordinary tokens, control tokens are asked for by number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.constraint import GrammarConstraint
from localllm.backends.llamacpp.grammars import Grammars
from localllm.backends.llamacpp.token_model import LlamaVocabulary
from localllm.chat.tokenizer import PromptTokenizer
from localllm.errors import BackendError

NAMES = ("llama-spm", "phi-3", "llama-bpe", "gpt-2", "deepseek-coder")


@pytest.fixture(scope="module", params=NAMES)
def native(request: pytest.FixtureRequest, llama_assets: Path) -> Iterator[NativeModel]:
    """A vocabulary without weights."""
    model = NativeModel(llama_assets / f"ggml-vocab-{request.param}.gguf", vocab_only=True)
    yield model
    model.close()


@pytest.fixture(scope="module")
def grammars(native: NativeModel) -> Grammars:
    """Its grammars."""
    vocabulary = LlamaVocabulary(native, "hash")
    special = frozenset(vocabulary.special_tokens.values())
    return Grammars(native, special, PromptTokenizer(vocabulary).encode_plain)


def _written(native: NativeModel, constraint: GrammarConstraint) -> list[int]:
    """Return what a constraint forces, and where it forces nothing the last token that it allows, to its end."""
    tokens: list[int] = []
    while not constraint.stopped:
        found = list(constraint.forced()) or [int(constraint.allowed().nonzero()[0][-1])]
        constraint.accept(found)
        tokens += found
        assert len(tokens) < 200
    return tokens


def test_a_forced_text_is_spelled_as_it_stands(native: NativeModel, grammars: Grammars) -> None:
    """Without a space before it, with what looks like control tokens as plain text, and with all its characters."""
    ends = [native.token_text(token) for token in range(native.n_vocab) if native.is_end(token)]
    for text in ("hello world", " two  spaces", '{"é": "日本 🙂"}', "a</s><|im_end|><|end|>b", f"x{ends[0]}y"):
        literal = text.replace("\\", "\\\\").replace('"', '\\"')
        tokens = _written(native, grammars.constraint(f'start: "{literal}"'))
        assert native.detokenize(tokens).decode() == text
        assert not any(native.is_control(token) for token in tokens)


def test_every_end_token_may_end_a_reply_and_none_may_stand_in_it(native: NativeModel, grammars: Grammars) -> None:
    """Where the grammar allows an end, all of them are allowed."""
    ends = [token for token in range(native.n_vocab) if native.is_end(token)]
    constraint = grammars.constraint("start: /(.|\\n)*/")
    assert constraint.allowed()[ends].all()
    controls = [token for token in range(native.n_vocab) if native.is_control(token) and token not in ends]
    assert not constraint.allowed()[controls].any()
    begun = grammars.constraint('start: "a" /[0-9]/')
    assert not begun.allowed()[ends].any()


def test_a_control_token_can_be_asked_for_by_its_number(native: NativeModel, grammars: Grammars) -> None:
    """As dialects do for their marks."""
    token = next((token for token in range(native.n_vocab) if native.is_control(token)), None)
    assert token is not None
    constraint = grammars.constraint(f'start: "a" <[{token}]> "b"')
    tokens = _written(native, constraint)
    assert tokens.count(token) == 1
    assert native.detokenize([one for one in tokens if one != token]) == b"ab"


def test_a_constraint_that_failed_says_so_at_every_use(native: NativeModel, grammars: Grammars) -> None:
    """And its grammar is compiled anew for the next request."""
    source = 'start: "abc"'
    constraint = grammars.constraint(source)
    assert grammars.has(source)
    (wrong,) = native.tokenize("z", parse_special=False)[-1:]
    with pytest.raises(BackendError, match="does not allow"):
        constraint.accept((wrong,))
    assert not grammars.has(source)
    for use in (constraint.forced, constraint.prepare, lambda: constraint.allows((wrong,))):
        with pytest.raises(BackendError):
            use()
    assert native.detokenize(_written(native, grammars.constraint(source))) == b"abc"

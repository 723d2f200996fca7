"""The tokenizer of words: reversible, and of bounded size."""

from __future__ import annotations

import threading
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.backends.words import TURN_END, WordTokenizer, split_words
from localllm.errors import InvalidOptionError, InvalidPromptError, PromptTypeError


@given(st.text())
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(split_words(text)) == text


@given(st.lists(st.text(), max_size=5))
def test_any_text_comes_back_and_has_the_same_tokens_each_time(texts: list[str]) -> None:
    tokenizer = WordTokenizer()
    for text in texts * 2:
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert tokenizer.encode(text) == tokens
        assert all(0 <= token < tokenizer.size for token in tokens)


def test_control_tokens_are_none_that_plain_text_becomes() -> None:
    tokenizer = WordTokenizer()
    (control,) = tokenizer.encode_control(TURN_END)
    assert tokenizer.decode([control]) == TURN_END
    assert control not in tokenizer.encode(TURN_END)
    assert tokenizer.encode_control("no control") == tokenizer.encode("no control")


def test_a_full_vocabulary_spells_new_words_in_bytes() -> None:
    tokenizer = WordTokenizer()
    tokenizer.encode(" ".join(map(str, range(70_000))))
    tokens = tokenizer.encode("neverseen🙂")
    assert tokens == tuple("neverseen🙂".encode())
    assert tokenizer.decode(tokens) == "neverseen🙂"
    assert tokenizer.decode(tokens[:-1]) == "neverseen\ufffd"
    assert len(tokenizer.encode(" 5")) == 1
    assert max(tokenizer.encode(" 65000 69999")) < tokenizer.size


@pytest.mark.parametrize("token", [-1, 10**6, 258, True, "a", 1.0], ids=repr)
def test_what_is_no_token_is_refused(token: object) -> None:
    with pytest.raises(InvalidOptionError, match="no such token"):
        WordTokenizer().decode([cast("int", token)])


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidPromptError, match="surrogate"):
        WordTokenizer().encode("\ud800")
    with pytest.raises(PromptTypeError):
        WordTokenizer().encode(cast("str", b"bytes"))


def test_threads_that_learn_the_same_words_at_once_agree_on_them() -> None:
    tokenizer = WordTokenizer()
    text = " ".join(f"w{count}" for count in range(3000))
    start, found = threading.Barrier(4), list[tuple[int, ...]]()

    def encode() -> None:
        start.wait(10)
        found.append(tokenizer.encode(text))

    threads = [threading.Thread(target=encode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert tokenizer.decode(found[0]) == text

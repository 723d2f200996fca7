"""What `llama_cpp.Llama` answers to two-turn chats with a tiny model: the tokens that ours must equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
from attrs import frozen
from bench.systems import make_llama

from localllm import ModelConfig

N_CTX = 512
MAX_TOKENS = 24
PORTION = 64
"""Prompt tokens that the peer reads at a time: those of our deterministic requests."""

CONFIG = ModelConfig(n_ctx=N_CTX, threads=1, kv_type="f32", flash_attention=False)
"""Ours as the peer. Keys and values are kept whole: rounded to 16 bits, they differ visibly where a prompt was read in
other portions; like this the logits differ by 1e-5 or so, and by 1e-3 at worst (Gemma's activation is a table in 16
bits)."""

CLEAR = 0.002
"""The margin from which on a greedy choice is a clear one, in whatever portions the prompt was read."""


@frozen
class Chat:
    """A chat of two turns.

    Args:
        system: The system message, or None.
        prompts: What the user says in each turn.
    """

    system: str | None
    prompts: tuple[str, str]


def _words(count: int, salt: str) -> str:
    return " ".join(f"{salt}{index % 7}" for index in range(count))


CHATS = (
    Chat(None, ("Hello there.", "And then?")),
    Chat(None, ("Why is the sky blue?", "Says who?")),
    Chat("You are terse.", ("Name a fruit.", "And a color?")),
    Chat("You are terse.", ("Name a bird.", "Another one, on the other side of the world.")),
    Chat(_words(12, "ab"), ("one", "two")),
    Chat(_words(30, "cd"), ("Where is the inn on the northern road?", "Thanks.")),
    Chat(_words(50, "ef"), ("Tell me more.", _words(20, "gh"))),
    Chat(_words(50, "ef"), ("Tell me less.", "Even less!")),
    Chat("A parrot.\nIt repeats.", (_words(35, "ij"), "Once more?")),
    Chat(_words(70, "kl"), ("?", "naïve 🙂 日本語")),
)
"""Short and long ones, within the window of the "sliding" model and far beyond it; some share a beginning."""


@frozen
class Turn:
    """What the peer made of one turn.

    Args:
        prompt: Tokens of the whole prompt.
        reply: Tokens of the reply, without the one that ends it.
        ended: Whether the model ended it itself.
        clear: Leading tokens of it, the one that ends it included, that were clear choices: the best logit exceeded
            the next one by `CLEAR`.
    """

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    ended: bool
    clear: int

    @property
    def all_clear(self) -> bool:
        """Whether all choices were clear ones."""
        return self.clear == len(self.reply) + self.ended

    @property
    def computed(self) -> int:
        """Tokens whose cells are in the cache after it: a last token for which there was no room is not computed."""
        return len(self.prompt) + len(self.reply) - (not self.ended)


class Peer:
    """`llama_cpp.Llama` over one of the tiny models, reading each prompt from its beginning.

    Args:
        llama: It.
    """

    def __init__(self, llama: Any) -> None:
        self._llama = llama

    def answers(self, chat: Chat) -> tuple[Turn, Turn]:
        """Return both turns of a chat; the second goes on from the tokens of the first."""
        first, second = chat.prompts
        opening = [] if chat.system is None else self._tokens(f"<|im_start|>system\n{chat.system}<|im_end|>\n")
        asked = self.answer([*opening, *self._asking(first)])
        return asked, self.goes_on(asked, second)

    def goes_on(self, turn: Turn, prompt: str) -> Turn:
        """Return the turn that follows `turn` in the same chat."""
        return self.answer([*turn.prompt, *turn.reply, *self._tokens("<|im_end|>\n"), *self._asking(prompt)])

    def answer(self, prompt: Sequence[int]) -> Turn:
        """Return what follows the tokens of `prompt`."""
        self._llama.reset()
        reply: list[int] = []
        ended = False
        clear = 0
        for token in self._llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            clear += clear == len(reply) and self._margin() > CLEAR
            ended = token == self._llama.token_eos()
            if ended:
                break
            reply.append(token)
            if len(reply) == MAX_TOKENS:
                break
        return Turn(tuple(prompt), tuple(reply), ended, clear)

    def _asking(self, prompt: str) -> list[int]:
        return self._tokens(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")

    def _tokens(self, text: str) -> list[int]:
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=True))

    def _margin(self) -> float:
        """Return the distance of the two best logits of the last decode."""
        logits = llama_cpp.llama_get_logits(self._llama.ctx)[: self._llama.n_vocab()]
        second, first = sorted(logits)[-2:]
        return float(first - second)


@contextmanager
def open_peer(path: Path) -> Iterator[Peer]:
    """Open the model at `path` with the settings of `CONFIG`, and portions of `PORTION` tokens."""
    whole = 0  # GGML_TYPE_F32
    llama = make_llama(
        path, 1, n_ctx=N_CTX, n_batch=PORTION, n_ubatch=PORTION, flash_attn=False, type_k=whole, type_v=whole
    )
    try:
        yield Peer(llama)
    finally:
        llama.close()

"""Logits as arrays over llama.cpp's own memory: masks on them, choices among a few, and log-probabilities."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from localllm.backends.llamacpp.library import library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def logits_at(address: int, n_vocab: int) -> NDArray[np.float32]:
    """Return llama.cpp's logits, to be read and written until the next batch."""
    import numpy as np

    return np.ctypeslib.as_array((ctypes.c_float * n_vocab).from_address(address))


def forbid(logits: NDArray[np.float32], allowed: NDArray[np.bool_]) -> None:
    """Make all tokens impossible that are not allowed."""
    import numpy as np

    np.copyto(logits, np.float32(-np.inf), where=~allowed)


class Candidates:
    """Room for tokens among which a sampler chain is to choose, as llama.cpp's `llama_token_data_array`.

    Args:
        n_vocab: Tokens at most.
    """

    def __init__(self, n_vocab: int) -> None:
        import numpy as np

        layout = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data
        self._lib = lib = library()
        self._entries = np.zeros(n_vocab, dtype=layout)
        self._ids: NDArray[np.int32] = self._entries["id"]
        self._logits: NDArray[np.float32] = self._entries["logit"]
        data = ctypes.cast(self._entries.ctypes.data, lib.llama_token_data_p)
        self._array = lib.llama_token_data_array(data=data, size=0, selected=-1, sorted=False)

    def choose(self, chain: ctypes.c_void_p, tokens: NDArray[np.intp], logits: NDArray[np.float32]) -> int:
        """Let a chain choose among `tokens`, and remember its choice."""
        count = len(tokens)
        self._ids[:count] = tokens
        self._logits[:count] = logits[tokens]
        self._array.size, self._array.selected, self._array.sorted = count, -1, False
        self._lib.llama_sampler_apply(chain, ctypes.byref(self._array))
        token = int(self._ids[self._array.selected])
        self._lib.llama_sampler_accept(chain, token)
        return token


class LogProbabilities:
    """The distribution that logits give: a `localllm.engine.model.Distribution`.

    Args:
        logits: The logits; copied.
    """

    def __init__(self, logits: NDArray[np.float32]) -> None:
        import numpy as np

        shifted = logits - logits.max()
        self._logprobs: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32)

    def of(self, token: int) -> float:
        """Return a token's log-probability."""
        return float(self._logprobs[token])

    def top(self, count: int) -> Sequence[tuple[int, float]]:
        """Return the likeliest tokens, the likeliest first."""
        import numpy as np

        count = min(count, len(self._logprobs))
        if not count:
            return ()
        best = np.argpartition(self._logprobs, -count)[-count:]
        best = best[np.argsort(-self._logprobs[best], kind="stable")]
        return [(int(token), float(self._logprobs[token])) for token in best]

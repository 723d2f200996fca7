"""Parts of a sequence are copied by way of a scratch sequence, which a failed copy must not leave filled."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from localllm.backends.llamacpp.bindings import ContextParams, NativeContext, NativeModel
from localllm.backends.llamacpp.token_model import LlamaContext
from localllm.engine.model import Work

SEQUENCES = 2


class PoorContext(NativeContext):
    """Has no memory for copies while `poor`."""

    poor = False

    def save(self, seq_id: int) -> bytes:
        """Refuse, or save."""
        if self.poor:
            raise MemoryError("none left")
        return super().save(seq_id)


def test_a_copy_that_fails_leaves_nothing_behind_for_the_next(smollm2_path: Path) -> None:
    """It is the same as if none had failed."""
    model = NativeModel(smollm2_path)
    params = ContextParams(
        n_ctx=256, n_sequences=SEQUENCES + 1, n_batch=64, n_outputs=1, threads=1, kv_type="f16", flash_attention=False
    )
    native = PoorContext(model, params)
    context = LlamaContext(native, SEQUENCES, 256)
    context.decode([Work(0, 0, array("i", range(100, 116)), False)])
    whole = context.save(0, 8, 16)
    native.poor = True
    with pytest.raises(MemoryError, match="none left"):
        context.save(0, 0, 8)
    native.poor = False
    assert context.save(0, 8, 16) == whole
    context.close()
    model.close()

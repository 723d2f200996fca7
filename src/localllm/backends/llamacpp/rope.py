"""Positions beyond a model's training length: what a config says of rotary embeddings, as llama.cpp takes it.

Without scaling a model has never seen such positions, and talks nonsense there. Linear scaling (arXiv:2306.15595)
squeezes all positions into the trained range; YaRN (arXiv:2309.00071) does so for the slow frequencies only.
"""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from localllm.options import ModelConfig

_SCALING = {None: -1, "none": 0, "linear": 1, "yarn": 2}  # LLAMA_ROPE_SCALING_TYPE_*


class _Params(Protocol):
    """The part of llama.cpp's context parameters that is about positions."""

    rope_scaling_type: int
    rope_freq_base: float
    rope_freq_scale: float
    yarn_orig_ctx: int


@frozen(kw_only=True)
class Rope:
    """How positions are encoded; zeros, and -1, are as the model's file says.

    Args:
        scaling: llama.cpp's number of the kind of scaling.
        freq_base: The base of the frequencies.
        freq_scale: What frequencies are multiplied by: 0.5 for twice the training length.
        orig_ctx: Tokens that the model was trained with, for YaRN.
    """

    scaling: int = -1
    freq_base: float = 0.0
    freq_scale: float = 0.0
    orig_ctx: int = 0

    def set_in(self, params: _Params) -> None:
        """Write it into llama.cpp's context parameters."""
        params.rope_scaling_type = self.scaling
        params.rope_freq_base = self.freq_base
        params.rope_freq_scale = self.freq_scale
        params.yarn_orig_ctx = self.orig_ctx


def extends(config: ModelConfig) -> bool:
    """Whether `config` says how positions beyond the training length are made."""
    scaled = config.rope_scaling in ("linear", "yarn")
    return scaled or (config.rope_scaling is None and bool(config.rope_freq_base or config.rope_freq_scale))


def rope_for(config: ModelConfig, n_ctx: int, n_ctx_train: int) -> Rope:
    """Return how positions are encoded.

    Args:
        config: What the user asks for. A kind of scaling without a scale gets the one that makes the context fit.
        n_ctx: Tokens of the context window.
        n_ctx_train: Tokens that the model was trained with.
    """
    scale = config.rope_freq_scale or 0.0
    if not scale and config.rope_scaling in ("linear", "yarn") and n_ctx > n_ctx_train:
        scale = n_ctx_train / n_ctx
    return Rope(
        scaling=_SCALING[config.rope_scaling],
        freq_base=config.rope_freq_base or 0.0,
        freq_scale=scale,
        orig_ctx=config.yarn_orig_ctx or 0,
    )

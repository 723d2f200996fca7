"""What is known of a model: from its header before it is loaded, and of the loaded one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

TemplateSource = Literal["model", "config", "builtin", "none"]


@frozen(kw_only=True)
class ModelInfo:
    """A model's facts.

    Args:
        name: Its name, from the header or the file.
        architecture: llama.cpp's name of its architecture, such as "llama".
        parameters: Count of its weights.
        quantization: How its weights are stored, such as "Q4_1".
        context_length: Tokens it was trained with.
        vocab_size: Tokens it knows.
        size_bytes: Bytes of its files.
        chat_template: Its own Jinja chat template, or None.
        template_source: Where the template in use comes from: the model, the config, or the built-in ChatML, which
            stands in when the model has none; "none" where messages are raw text (`chat_template="none"`).
        model_hash: Identity of header, size and sampled weights; tokens are valid for one hash only.
        path: Its (first) file, or None for a backend without files.
        backend: Name of the backend that loaded it; empty when it is not loaded.
        n_ctx: Tokens that its context window may hold; 0 when it is not loaded.
        n_parallel: Replies that it makes at once; 0 when it is not loaded, or when its backend does not tell.
        max_queue: Requests that may wait beside them; told together with `n_parallel`.
        gpu_layers: Layers that were really offloaded to a GPU.
    """

    name: str
    architecture: str = ""
    parameters: int = 0
    quantization: str = ""
    context_length: int = 0
    vocab_size: int = 0
    size_bytes: int = 0
    chat_template: str | None = None
    template_source: TemplateSource = "model"
    model_hash: str = ""
    path: Path | None = None
    backend: str = ""
    n_ctx: int = 0
    n_parallel: int = 0
    max_queue: int = 0
    gpu_layers: int = 0

"""What a model's header says about it, as `ModelInfo`: without loading it, in milliseconds."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from localllm.models.gguf import GGUFHeader, read_header
from localllm.models.identity import model_hash
from localllm.models.info import ModelInfo
from localllm.models.splits import read_parts
from localllm.models.tensor_types import FILE_TYPES

_GUESSED = 1024  # llama.cpp sets this bit in a file type that it guessed itself


def model_info(path: Path) -> ModelInfo:
    """Return what the header of the model at `path` says; the values are well-formed, but not checked for sense.

    Args:
        path: The model's file, or the first one of a model in parts.

    Raises:
        ModelNotFoundError: There is no such file, or a part of the model is missing.
        InvalidModelFileError: It is no GGUF file, or a truncated or damaged one.
        ModelLoadError: It cannot be opened.
    """
    parts = read_parts(read_header(path))
    header = parts[0]
    architecture = header.text("general.architecture") or ""
    tokens = header.array("tokenizer.ggml.tokens")
    template = header.text("tokenizer.chat_template") or None
    return ModelInfo(
        name=header.text("general.name") or path.stem,
        architecture=architecture,
        parameters=sum(prod(tensor.shape) for part in parts for tensor in part.tensors.values()),
        quantization=quantization_name(parts),
        context_length=header.integer(f"{architecture}.context_length") or 0,
        vocab_size=tokens.count if tokens is not None else header.integer(f"{architecture}.vocab_size") or 0,
        size_bytes=sum(part.file_size for part in parts),
        chat_template=template,
        template_source="model" if template is not None else "builtin",
        model_hash=model_hash(parts),
        path=path,
    )


def quantization_name(parts: tuple[GGUFHeader, ...]) -> str:
    """Return how a model's weights are stored: what its header states, if its tensors bear that out, else their type.

    Args:
        parts: The headers of the model's files.

    Returns:
        A name such as "Q4_K_M"; empty when there are no weights.
    """
    values: Counter[str] = Counter()
    for part in parts:
        for tensor in part.tensors.values():
            if len(tensor.shape) > 1:  # norms and biases stay in F32
                values[tensor.type.name] += prod(tensor.shape)
    if not values:
        return ""
    number = parts[0].integer("general.file_type")
    stated = FILE_TYPES.get(number & ~_GUESSED) if number is not None else None
    if stated is not None and stated.tensor_type in values:
        return stated.name
    return values.most_common(1)[0][0]

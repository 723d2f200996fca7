"""The guard before native code: is this file a model that llama.cpp survives loading and running?

`check_file` is what a backend calls before it hands a path to native code. It reads headers only, so it takes
milliseconds, and it cannot see what the tensors' data holds (any bytes are numbers), nor that somebody changes the file
between the check and the load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import attrs

from localllm.errors import InvalidModelFileError
from localllm.models.architectures import PLAIN
from localllm.models.gguf import GGUFHeader, Tensor, read_header
from localllm.models.hparams import Hyperparameters, architecture_of, check_hyperparameters
from localllm.models.keys import Keys
from localllm.models.splits import part_count, read_parts
from localllm.models.vocabulary import check_vocabulary, require_vocabulary

NATIVE_ALIGNMENT = 32
"""llama.cpp maps tensors into memory and asserts that they begin at multiples of this, in bytes."""

_BLOCK = re.compile(r"blk\.([0-9]{1,9})\.")
_MATRIX = re.compile(
    r"(token_embd|output|blk\.[0-9]+\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down)(_exps|_shexp)?|ffn_gate_inp))\.weight"
)
_VECTOR = re.compile(
    r".*(norm\.weight|\.bias|\.scale|\.input_scale|rope_freqs\.weight|rope_factors_(long|short)\.weight|attn_sinks\.weight)"
)


def check_file(path: Path) -> GGUFHeader:
    """Read the headers of the model at `path` and refuse what native code could not survive.

    Args:
        path: The model's file, or the first one of a model in parts.

    Returns:
        The header; of a model in parts, with the tensors of all parts.

    Raises:
        ModelNotFoundError: There is no such file, or a part of the model is missing.
        InvalidModelFileError: It is no GGUF model, or a truncated, damaged or hostile one, or has no vocabulary.
        ModelLoadError: It cannot be opened.
    """
    header = read_header(path)
    require_vocabulary(header)
    parts = read_parts(header)
    if len(parts) > 1:
        tensors: dict[str, Tensor] = {}
        for part in parts:
            _check_alignment(part)
            tensors.update(part.tensors)
        header = attrs.evolve(header, tensors=MappingProxyType(tensors))
    check_model(header)
    return header


def check_model(header: GGUFHeader, *, vocab_only: bool = False) -> None:
    """Refuse a header whose values native code could not survive.

    Args:
        header: The header.
        vocab_only: Look at the vocabulary only, for a file that is loaded for nothing else.

    Raises:
        InvalidModelFileError: A value is wrong; the message says what, where, and what is allowed.
    """
    architecture_of(header)
    parts = part_count(header)
    if not (header.tensors or vocab_only or parts > 1):
        raise InvalidModelFileError(f"{header.path} holds no tensors, only metadata: it is a vocabulary, not a model")
    tokens = check_vocabulary(header)
    if vocab_only:
        return
    shape = check_hyperparameters(header)
    Keys(header, f"{shape.architecture}.").u32("vocab_size", 1, _max_vocabulary(header, tokens))
    _check_alignment(header)
    complete = parts == 1 or header.integer("split.tensors.count") == len(header.tensors)
    for tensor in header.tensors.values():
        _check_tensor(header, tensor, shape)
    _check_pairs(header)
    if shape.architecture in PLAIN:
        _check_shapes(header, shape, tokens, complete=complete)


def _refuse(header: GGUFHeader, tensor: Tensor, problem: str) -> InvalidModelFileError:
    """Return the error that says `problem` of `tensor`."""
    return InvalidModelFileError(
        f"{header.path}: tensor {tensor.name}, byte {header.data_offset + tensor.offset}: {problem}"
    )


def _max_vocabulary(header: GGUFHeader, tokens: int) -> int:
    """Return how many tokens the model can have: without a vocabulary, llama.cpp makes up as many as the key says."""
    embedding = header.tensors.get("token_embd.weight")
    return max(tokens, embedding.shape[-1] if embedding is not None else 1 << 24)


def _check_alignment(header: GGUFHeader) -> None:
    """Refuse tensors that begin where native code asserts that none does."""
    if header.tensors and header.alignment % NATIVE_ALIGNMENT:
        raise Keys(header).refuse(
            "general.alignment", f"{header.alignment} bytes; allowed: multiples of {NATIVE_ALIGNMENT}"
        )


def _check_tensor(header: GGUFHeader, tensor: Tensor, shape: Hyperparameters) -> None:
    """Refuse a tensor of a layer that is not there, or of a type that ggml has no operation for."""
    block = _BLOCK.match(tensor.name)
    if block is not None and int(block[1]) >= shape.layers:
        raise _refuse(header, tensor, f"the model has {shape.layers} layers ({shape.architecture}.block_count)")
    if _VECTOR.fullmatch(tensor.name) and tensor.type.name != "F32":
        raise _refuse(header, tensor, f"the type {tensor.type.name}; allowed here: F32")
    if _MATRIX.fullmatch(tensor.name) and tensor.type.kind == "other":
        raise _refuse(header, tensor, f"the type {tensor.type.name}; allowed here: floating-point and quantized types")


def _check_pairs(header: GGUFHeader) -> None:
    """Refuse NVFP4 weights together with what llama.cpp asserts that they never have."""
    for tensor in header.tensors.values():
        if tensor.type.name != "NVFP4":
            continue
        stem = tensor.name.removesuffix(".weight")
        if f"{stem}.scale" in header.tensors and f"{stem}.bias" in header.tensors:
            raise _refuse(header, tensor, "NVFP4 weights with both a scale and a bias, which llama.cpp cannot run")
        tied = stem == "token_embd" and "output.weight" not in header.tensors
        if tied and ("output.scale" in header.tensors or "output.input_scale" in header.tensors):
            raise _refuse(header, tensor, "NVFP4 weights shared with the output, which has a scale of its own")


def _check_shapes(header: GGUFHeader, shape: Hyperparameters, tokens: int, *, complete: bool) -> None:
    """Refuse a plain transformer whose tensors are missing or have other shapes than its hyperparameters say."""
    name = shape.architecture
    for needed, values in (("attention.head_count", shape.heads), ("feed_forward_length", shape.feed_forward)):
        if not values:
            raise Keys(header, f"{name}.").refuse(needed, "this key is missing, and llama.cpp needs it")
    for stem, expected in _expected_shapes(shape, tokens):
        tensor = header.tensors.get(f"{stem}.weight")
        if tensor is not None and _padded(tensor.shape) != _padded(expected):
            raise _refuse(
                header, tensor, f"the shape {tensor.shape}; its hyperparameters and vocabulary say {expected}"
            )
    if not complete:
        return
    if "token_embd.weight" not in header.tensors:
        raise InvalidModelFileError(f"{header.path}: tensor token_embd.weight is missing; every model has it")
    present = {int(block[1]) for block in map(_BLOCK.match, header.tensors) if block is not None}
    missing = [layer for layer in range(shape.layers) if layer not in present]
    if missing:
        raise InvalidModelFileError(
            f"{header.path}: layers {missing[:8]} of {shape.layers} ({name}.block_count) have no tensors"
        )


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return `shape` with as many dimensions as ggml has."""
    return shape + (1,) * (4 - len(shape))


def _expected_shapes(shape: Hyperparameters, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names of a plain transformer's tensors, without ".weight", and their shapes."""
    width = shape.width
    if tokens:
        yield "token_embd", (width, tokens)
        yield "output", (width, tokens)
    yield "output_norm", (width,)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        queries = shape.heads[layer] * shape.key_length
        keys = shape.heads_kv[layer] * shape.key_length
        values = shape.heads_kv[layer] * shape.value_length
        yield block + "attn_norm", (width,)
        yield block + "attn_qkv", (width, queries + keys + values)
        yield block + "attn_q", (width, queries)
        yield block + "attn_k", (width, keys)
        yield block + "attn_v", (width, values)
        yield block + "attn_output", (shape.heads[layer] * shape.value_length, width)
        yield block + "ffn_norm", (width,)
        yield block + "ffn_down", (shape.feed_forward[layer], width)

"""What native code trusts in a header's hyperparameters: ranges, divisors, and how they fit each other.

Each rule stands for a place in llama.cpp that aborts (`GGML_ASSERT`), divides by zero or indexes an array with the
value. Rules that hold for every architecture are applied to every architecture, the others to those that
`architectures.py` names. docs/gguf.md lists the rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from attrs import frozen

from localllm.models.architectures import (
    AT_LEAST,
    EQUAL_HEADS,
    EXPERTS,
    FULL_ROPE,
    GATED_EXPERTS,
    GROUPED_SSM,
    SECTIONED_ROPE,
)
from localllm.models.gguf import GGUFArray, GGUFHeader, ValueType
from localllm.models.keys import MAX_INT32, Keys

MAX_LAYERS = 512
MAX_EXPERTS = 1024
MAX_CONTEXT = 1 << 30
MAX_WIDTH = 1 << 24

ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")

_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")
_DIVISORS = (  # what some graph divides by, when it is there at all
    "wkv.head_size",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "attention.group_norm_groups",
    "attention.output_group_count",
    "attention.indexer.block_size",
    "experts_per_group",
    "shortconv.l_cache",
)


@frozen(kw_only=True)
class Hyperparameters:
    """The shape of a transformer, as its header states it.

    Args:
        architecture: llama.cpp's name of it.
        layers: Count of its layers.
        width: Length of an embedding.
        heads: Attention heads of each layer; empty when the header does not say.
        heads_kv: Heads of keys and values of each layer; empty when the header does not say.
        feed_forward: Width of each layer's feed-forward part; empty when the header does not say.
        key_length: Length of one head's key.
        value_length: Length of one head's value.
        experts: Count of experts; 0 in a dense model.
    """

    architecture: str
    layers: int
    width: int
    heads: tuple[int, ...]
    heads_kv: tuple[int, ...]
    feed_forward: tuple[int, ...]
    key_length: int
    value_length: int
    experts: int


def architecture_of(header: GGUFHeader) -> str:
    """Return the architecture's name.

    Raises:
        InvalidModelFileError: It is missing or no name.
    """
    keys = Keys(header, "general.")
    name = keys.text("architecture")
    if name is None:
        raise keys.refuse("architecture", "this key is missing; every model has it")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
        raise keys.refuse("architecture", f"{name!r:.80}; allowed: up to 64 lower-case letters, digits, -, _ and .")
    if name == "clip":
        raise keys.refuse("architecture", "'clip': a vision projector, which only works beside a language model")
    return name


def check_hyperparameters(header: GGUFHeader) -> Hyperparameters:
    """Refuse hyperparameters that native code could not survive; return those that tensors' shapes follow from.

    Raises:
        InvalidModelFileError: One of them is wrong; the message says which key, value and what is allowed.
    """
    architecture = architecture_of(header)
    keys = Keys(header, f"{architecture}.")
    _check_numbers(keys)
    layers = keys.need_u32("block_count", 1, MAX_LAYERS)
    keys.need_u32("context_length", 1, MAX_CONTEXT)
    width = keys.need_u32("embedding_length", 1, MAX_WIDTH)
    keys.u32("nextn_predict_layers", 0, layers - 1)
    keys.u32("pooling_type", 0, 4)
    if keys.flag("attention.causal") is False:
        raise keys.refuse("attention.causal", "False: an embedding or diffusion model, which cannot generate text")
    experts = _check_experts(keys, architecture, layers)
    heads = keys.per_layer("attention.head_count", layers, 0, MAX_WIDTH) or ()
    heads_kv = keys.per_layer("attention.head_count_kv", layers, 0, MAX_WIDTH) or heads
    feed_forward = keys.per_layer("feed_forward_length", layers, 0, MAX_WIDTH) or ()
    _check_head_counts(keys, heads, heads_kv)
    _check_rope(keys, architecture)
    _check_windows(keys)
    for name in _EPSILONS:
        epsilon = keys.f32(f"attention.{name}")
        if epsilon is not None and epsilon <= 0:
            raise keys.refuse(f"attention.{name}", f"{epsilon}; allowed: positive numbers")
    for name in _DIVISORS:
        keys.u32(name, 1)
    keys.u32("num_loops", 1, MAX_LAYERS // layers)
    if architecture in GROUPED_SSM:
        keys.u32("ssm.group_count", 1)
    for name, low in AT_LEAST.get(architecture, {}).items():
        keys.need_u32(name, low)
    key_length, value_length = _head_lengths(keys, architecture, width, heads)
    return Hyperparameters(
        architecture=architecture,
        layers=layers,
        width=width,
        heads=heads,
        heads_kv=heads_kv,
        feed_forward=feed_forward,
        key_length=key_length,
        value_length=value_length,
        experts=experts,
    )


def _check_numbers(keys: Keys) -> None:
    """Refuse numbers of the architecture that are no numbers or beyond 32 bits with a sign, whatever they are for."""
    for name, found in keys.header.metadata.items():
        if not name.startswith(keys.prefix):
            continue
        key = name[len(keys.prefix) :]
        value = found.value
        if isinstance(value, float) and not math.isfinite(value):
            raise keys.refuse(key, f"{value}; allowed: finite numbers")
        if isinstance(value, int) and not -MAX_INT32 <= value <= MAX_INT32:
            raise keys.refuse(key, f"{value}; allowed: {-MAX_INT32} to {MAX_INT32}")
        if isinstance(value, GGUFArray) and value.element in (ValueType.FLOAT32, ValueType.FLOAT64):
            bad = next((item for item in value.numbers() if not math.isfinite(item)), None)
            if bad is not None:
                raise keys.refuse(key, f"an array that holds {bad}; allowed: finite numbers")


def _check_experts(keys: Keys, architecture: str, layers: int) -> int:
    """Refuse counts of experts that do not fit each other; return how many there are."""
    needed = int(architecture in EXPERTS)
    experts = (keys.need_u32 if needed else keys.u32)("expert_count", needed, MAX_EXPERTS) or 0
    if architecture in GATED_EXPERTS:
        keys.need_u32("expert_gating_func", 1, 4)
    keys.u32("expert_gating_func", 0, 4)
    used = keys.per_layer("expert_used_count", layers, 0, experts) or (0,)
    groups = keys.u32("expert_group_count", 0, max(experts - 1, 0)) or 0
    used_groups = keys.u32("expert_group_used_count") or 0
    if experts and not (used[0] if needed else max(used)):
        raise keys.refuse("expert_used_count", f"missing or 0; allowed: 1 to {experts} (expert_count)")
    if groups > 1:
        if experts % groups:
            raise keys.refuse("expert_group_count", f"{groups}; allowed: divisors of {experts} (expert_count)")
        if not 0 < used_groups < groups:
            raise keys.refuse("expert_group_used_count", f"{used_groups}; allowed: 1 to {groups - 1}")
    return experts


def _check_head_counts(keys: Keys, heads: Sequence[int], heads_kv: Sequence[int]) -> None:
    """Refuse heads of keys and values that the attention heads cannot share evenly."""
    for layer, (count, kv) in enumerate(zip(heads, heads_kv, strict=False)):
        if count and kv and (kv > count or count % kv):
            raise keys.refuse(
                "attention.head_count_kv",
                f"{kv} for layer {layer}; allowed: divisors of {count} (attention.head_count)",
            )


def _check_rope(keys: Keys, architecture: str) -> None:
    """Refuse settings of rotary embeddings that native code asserts."""
    scaling = keys.text("rope.scaling.type")
    if scaling is not None and scaling not in ROPE_SCALINGS:
        raise keys.refuse("rope.scaling.type", f"{scaling!r:.80}; allowed: {', '.join(ROPE_SCALINGS)}")
    for name in ("rope.freq_base", "rope.freq_base_swa"):
        base = keys.f32(name)
        if base is not None and base < 0:
            raise keys.refuse(name, f"{base}; allowed: positive numbers")
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        factor = keys.f32(name)
        if factor is not None and factor < 0:
            raise keys.refuse(name, f"{factor}; allowed: 0 (none) and positive numbers")
    keys.u32("rope.scaling.original_context_length", 0, MAX_CONTEXT)
    for name in ("rope.dimension_count", "rope.dimension_count_swa"):
        dimensions = keys.u32(name, 0, MAX_WIDTH)
        if dimensions is not None and dimensions % 2:
            raise keys.refuse(name, f"{dimensions}; allowed: even numbers")
    sections = keys.array("rope.dimension_sections", ValueType.INT32, ValueType.UINT32)
    values = sections.numbers() if sections is not None else ()
    if len(values) > 4 or min(values, default=0) < 0:
        raise keys.refuse("rope.dimension_sections", f"{values!r:.80}; allowed: up to 4 numbers from 0")
    if architecture in SECTIONED_ROPE and not any(values[:3]):
        raise keys.refuse("rope.dimension_sections", f"{values!r:.80}; allowed here: 4 numbers, not all of them 0")


def _check_windows(keys: Keys) -> None:
    """Refuse sliding windows whose sizes overflow, and a temperature scale that divides by zero."""
    found = keys.find("attention.sliding_window", ValueType.UINT32, ValueType.ARRAY)
    if found is not None and found.type is ValueType.UINT32:
        keys.u32("attention.sliding_window", 0, MAX_CONTEXT)
    if keys.f32("attention.temperature_scale") and keys.u32("attention.temperature_length") == 0:
        raise keys.refuse("attention.temperature_length", "0; allowed: from 1")


def _head_lengths(keys: Keys, architecture: str, width: int, heads: Sequence[int]) -> tuple[int, int]:
    """Return the lengths of one head's key and value; refuse those that the architecture's graph asserts against."""
    default = width // heads[0] if heads and heads[0] else 0
    key_length = keys.u32("attention.key_length", 0, MAX_WIDTH)
    value_length = keys.u32("attention.value_length", 0, MAX_WIDTH)
    key_length = default if key_length is None else key_length
    value_length = default if value_length is None else value_length
    if not heads or not heads[0]:
        return 0, 0
    for name, length in (("key_length", key_length), ("value_length", value_length)):
        if not length:
            raise keys.refuse(f"attention.{name}", f"0 for each of {heads[0]} heads; allowed: from 1")
    rotated = keys.u32("rope.dimension_count")
    if rotated is not None and rotated > key_length:
        raise keys.refuse("rope.dimension_count", f"{rotated}; allowed: up to {key_length}, the length of a head's key")
    if architecture in EQUAL_HEADS and key_length != value_length:
        raise keys.refuse("attention.value_length", f"{value_length}; allowed here: {key_length}, as the keys' length")
    if architecture in FULL_ROPE and rotated not in (None, key_length):
        raise keys.refuse("rope.dimension_count", f"{rotated}; allowed here: {key_length}, a whole head's key")
    if architecture in FULL_ROPE and key_length % 2:
        raise keys.refuse(
            "attention.key_length", f"{key_length}; allowed: even numbers, because its halves are rotated"
        )
    return key_length, value_length

"""What decides over memory, read from headers that are made up here, one for each way of keeping the past."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import pytest

from localllm.errors import InvalidModelFileError
from localllm.models.footprint import Footprint, Layer, read_footprint
from localllm.models.gguf import GGUFArray, GGUFHeader, Metadata, Tensor, ValueType
from localllm.models.tensor_types import TENSOR_TYPES

F16 = TENSOR_TYPES[1]
WIDTH, HEADS = 64, 4

PLAIN: Mapping[str, tuple[int, ...]] = {
    "attn_q.weight": (WIDTH, WIDTH),
    "attn_k.weight": (WIDTH, 32),
    "attn_v.weight": (WIDTH, 32),
    "ffn_up.weight": (WIDTH, 96),
    "ffn_gate.weight": (WIDTH, 96),
    "ffn_down.weight": (96, WIDTH),
}
"""The tensors of a usual layer, in ggml's order: two of four heads have keys and values."""


GATED: Mapping[str, int] = {"expert_count": 4, "expert_used_count": 2}
"""What the headers of some architectures must say of their experts."""


def footprint(architecture: str, tensors: Mapping[str, tuple[int, ...]], **keys: int | list[int]) -> Footprint:
    """Return the footprint of a model whose layers all have these tensors; dots in keys are written as `__`."""
    layers = keys.get("block_count", 1)
    assert isinstance(layers, int)
    values: dict[str, int | list[int]] = {
        "context_length": 512,
        "block_count": 1,
        "embedding_length": WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": 2,
    }
    values |= {key.replace("__", "."): value for key, value in keys.items()}
    metadata = {"general.architecture": Metadata(ValueType.STRING, architecture, 0)}
    for key, value in values.items():
        if isinstance(value, int):
            found = Metadata(ValueType.UINT32, value, 0)
        else:
            data = b"".join(item.to_bytes(4, "little") for item in value)
            found = Metadata(ValueType.ARRAY, GGUFArray(ValueType.UINT32, len(value), data), 0)
        metadata[f"{architecture}.{key}"] = found
    found_tensors = {
        f"blk.{layer}.{name}": Tensor(f"blk.{layer}.{name}", shape, F16, 0, 2 * prod(shape))
        for layer in range(layers)
        for name, shape in tensors.items()
    }
    header = GGUFHeader(
        path=Path("made-up.gguf"),
        version=3,
        alignment=32,
        metadata=metadata,
        tensors=found_tensors,
        data_offset=0,
        file_size=0,
    )
    return read_footprint(header)


def only(model: Footprint) -> Layer:
    """Return the one layer."""
    (layer,) = model.layers
    return layer


def test_a_plain_layer_keeps_keys_and_values_and_gates_its_feed_forward_part() -> None:
    """Widths from the tensors; gate, what it gates and the result are there at once."""
    model = footprint("llama", PLAIN)
    assert only(model) == Layer(
        keys=32, values=32, heads=HEADS, query=WIDTH, feed_forward=3 * 96, state=0, state_work=0
    )
    assert not model.recurrent
    assert model.weights_bytes == sum(2 * prod(shape) for shape in PLAIN.values())


def test_a_fused_projection_has_the_widths_of_the_hyperparameters() -> None:
    """Heads times their length, as the tensor does not say where keys begin."""
    fused = {"attn_qkv.weight": (WIDTH, WIDTH + 64), "ffn_up.weight": (WIDTH, 192), "ffn_down.weight": (96, WIDTH)}
    layer = only(footprint("phi3", fused))
    assert (layer.keys, layer.values, layer.query) == (32, 32, WIDTH)
    assert layer.feed_forward == 192 + 96


def test_a_plain_activation_needs_no_second_buffer() -> None:
    """It is computed in place."""
    layer = only(footprint("starcoder", {"ffn_up.weight": (WIDTH, 96), "ffn_down.weight": (96, WIDTH)}))
    assert layer.feed_forward == 96


def test_of_experts_those_count_that_a_token_goes_through() -> None:
    """Two of eight, and the choice among all."""
    tensors = {"attn_k.weight": (WIDTH, 32), "ffn_down_exps.weight": (96, WIDTH, 8)}
    layer = only(footprint("qwen3moe", tensors, expert_count=8, expert_used_count=2))
    assert layer.feed_forward == 2 * 3 * 96 + 4 * 8


def test_compressed_attention_keeps_no_values() -> None:
    """They are a part of the keys (MLA)."""
    keys = {"attention__key_length": 48, "attention__value_length": 32, "attention__head_count_kv": 1}
    lengths = {"attention__key_length_mla": 24, "attention__value_length_mla": 16}
    layer = only(footprint("deepseek2", {"attn_kv_a_mqa.weight": (WIDTH, 48)}, **keys, **lengths))
    assert (layer.keys, layer.values, layer.query) == (48, 0, HEADS * 48)


@pytest.mark.parametrize(
    ("architecture", "keys", "window"),
    [
        ("gemma3", {"attention__sliding_window": 512}, 512),
        ("gemma2", {}, 4096),
        ("gemma2", {"attention__sliding_window": 64}, 64),
        ("olmo2", {"attention__sliding_window": [0, 128]}, 128),
        ("olmo2", {}, 0),
        ("llama", {"attention__sliding_window": 512}, 0),
    ],
)
def test_windows_are_those_that_llama_cpp_heeds(
    architecture: str, keys: dict[str, int | list[int]], window: int
) -> None:
    """The key's, or the architecture's own where the key is missing; none where llama.cpp has none."""
    assert footprint(architecture, PLAIN, **keys).window == window


def test_layers_that_share_a_cache_have_none_of_their_own() -> None:
    """The last ones of a Gemma 4, as its header says, and those from the 21st of a Gemma 3n."""
    shared = footprint("gemma4", PLAIN, block_count=4, attention__shared_kv_layers=3)
    assert [layer.keys for layer in shared.layers] == [32, 0, 0, 0]
    assert [layer.heads for layer in shared.layers] == [HEADS] * 4
    assert sum(layer.keys > 0 for layer in footprint("gemma3n", PLAIN, block_count=30).layers) == 20


def test_layers_that_only_predict_further_tokens_are_left_out() -> None:
    """They are loaded, and never computed."""
    assert len(footprint("glm4moe", PLAIN, block_count=3, nextn_predict_layers=1, **GATED).layers) == 2


@pytest.mark.parametrize(
    ("architecture", "tensor", "keys", "state"),
    [
        ("rwkv7", "time_mix_key.weight", {"wkv__head_size": 16, "token_shift_count": 2}, WIDTH * (2 + 16)),
        ("arwkv7", "time_mix_key.weight", {"wkv__head_size": 16, "token_shift_count": 1}, WIDTH * (1 + 16)),
        ("lfm2", "shortconv.conv.weight", {"shortconv__l_cache": 3}, 2 * WIDTH),
        (
            "kimi-linear",
            "ssm_conv1d_q.weight",
            {"kda__head_dim": 16, "ssm__conv_kernel": 4, "expert_gating_func": 2, **GATED},
            3 * 3 * HEADS * 16 + 16 * 16 * HEADS,
        ),
        (
            "mamba",
            "ssm_in.weight",
            {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16, "ssm__time_step_rank": 4},
            3 * 128 + 16 * 128,
        ),
    ],
)
def test_states_follow_from_the_header(architecture: str, tensor: str, keys: dict[str, int], state: int) -> None:
    """By llama.cpp's formulas, of `llama_hparams::n_embd_r` and `n_embd_s`; such layers keep no keys."""
    model = footprint(architecture, {tensor: (WIDTH, WIDTH)}, **keys)
    layer = only(model)
    assert (layer.state, layer.keys, layer.heads) == (state, 0, 0)
    assert layer.state_work > 0
    assert model.recurrent


def test_a_layer_with_a_state_attends_only_with_keys_of_its_own() -> None:
    """A fused projection beside a state is a part of linear attention; separate keys are of real attention."""
    keys = {"ssm__conv_kernel": 4, "ssm__inner_size": 128, "ssm__state_size": 16, "ssm__group_count": 1}
    linear = only(footprint("qwen3next", {"attn_qkv.weight": (WIDTH, 128), "ssm_a": (4,)}, **keys))
    both = only(footprint("falcon-h1", {**PLAIN, "ssm_a": (4,)}, **keys))
    assert (linear.keys, linear.heads, linear.state > 0) == (0, 0, True)
    assert (both.keys, both.heads, both.state > 0) == (32, HEADS, True)


def test_wrong_hyperparameters_are_refused() -> None:
    """As before a load."""
    with pytest.raises(InvalidModelFileError, match="block_count"):
        footprint("llama", PLAIN, block_count=0)

"""What of a model's header decides how much memory it takes: what its layers keep for each token, and compute.

The widths come from the tensors' shapes where there are such tensors, for there they differ from layer to layer as
they really do, and from the hyperparameters elsewhere. Facts of llama.cpp's `llama-hparams.cpp`, `llama-model.cpp`
(`create_memory`) and `src/models`, as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from attrs import frozen

from localllm.models.gguf import GGUFHeader, Tensor, ValueType
from localllm.models.hparams import Hyperparameters, check_hyperparameters
from localllm.models.keys import Keys

_BLOCK = re.compile(r"blk\.([0-9]+)\.(.+)")
_ATTENTION = ("attn_k.weight", "attn_qkv.weight", "attn_kv_a_mqa.weight", "attn_kv_b.weight", "attn_k_b.weight")
_STATE_PARTS = ("ssm_", "time_mix_", "shortconv.")

_WINDOWED_NAMES = (
    "afmoe cohere2 cohere2moe deepseek4 dots3note exaone-moe exaone4 gemma2 gemma3 gemma3n gemma4 granite_swa laguna "
    "lfm2 llama4 maple mellum mimo2 muse-glimmer olmo2 gpt-oss plamo3 smallthinker spark2_5 step35"
)
_WINDOWED = frozenset(_WINDOWED_NAMES.split())  # whose windows llama.cpp heeds; others may have the key and no window
_DEFAULT_WINDOWS = {"exaone-moe": 128, "gemma2": 4096, "llama4": 8192, "smallthinker": 4096}
_OWN_CACHES = {"gemma3n": 20}  # layers from the beginning that have a cache of their own; the header doesn't say


@frozen(kw_only=True)
class Layer:
    """What one layer keeps and computes.

    Args:
        keys: Numbers of its keys for each token; 0 if it has no cache of its own.
        values: Numbers of its values for each token.
        heads: Attention heads that compute scores; 0 in a layer without attention.
        query: Numbers of its queries for each token, and of what attention gives back.
        feed_forward: Numbers of its feed-forward part for each token that are there at once.
        state: Numbers that it carries from token to token for each sequence, in place of a cache; 0 if none.
        state_work: Numbers that computing the state takes for each token.
    """

    keys: int
    values: int
    heads: int
    query: int
    feed_forward: int
    state: int
    state_work: int


@frozen(kw_only=True)
class Footprint:
    """What of a model its memory depends on.

    Args:
        weights_bytes: Bytes of its tensors.
        vocabulary: Tokens that it knows.
        merges: Merges of its vocabulary.
        width: Length of an embedding.
        trained_ctx: Tokens of the context that it was trained with.
        window: Tokens of its sliding window; 0 if it has none.
        key_length: Length of one head's key.
        value_length: Length of one head's value.
        usual_kv: Numbers that a plain cache would keep for a token, reckoned as the backend's defaults do.
        layers: Its layers, without those that only predict further tokens.
    """

    weights_bytes: int
    vocabulary: int
    merges: int
    width: int
    trained_ctx: int
    window: int
    key_length: int
    value_length: int
    usual_kv: int
    layers: tuple[Layer, ...]

    @property
    def recurrent(self) -> bool:
        """Whether any layer carries a state, so that sequences cannot be cut."""
        return any(layer.state for layer in self.layers)


def read_footprint(header: GGUFHeader) -> Footprint:
    """Return what of the model its memory depends on.

    Args:
        header: The header; of a model in parts, with the tensors of all parts, as `check_file` returns it.

    Raises:
        InvalidModelFileError: A hyperparameter is wrong.
    """
    shape = check_hyperparameters(header)
    keys = Keys(header, f"{shape.architecture}.")
    count = shape.layers - (keys.u32("nextn_predict_layers") or 0)
    blocks = _blocks(header.tensors)
    tokens = header.array("tokenizer.ggml.tokens")
    merges = header.array("tokenizer.ggml.merges")
    heads, heads_kv = max(shape.heads[:1], default=0), max(shape.heads_kv[:1], default=0)
    return Footprint(
        weights_bytes=sum(tensor.size_bytes for tensor in header.tensors.values()),
        vocabulary=tokens.count if tokens is not None else keys.u32("vocab_size") or 0,
        merges=0 if merges is None else merges.count,
        width=shape.width,
        trained_ctx=keys.need_u32("context_length"),
        window=_window(keys, shape.architecture),
        key_length=shape.key_length,
        value_length=shape.value_length,
        usual_kv=2 * count * heads_kv * (shape.width // max(1, heads)),
        layers=tuple(_layer(keys, shape, index, blocks.get(index, {})) for index in range(count)),
    )


def _blocks(tensors: Mapping[str, Tensor]) -> Mapping[int, Mapping[str, Tensor]]:
    """Return each layer's tensors, by the part of their names that follows the layer's number."""
    blocks: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := _BLOCK.fullmatch(name):
            blocks[int(match[1])][match[2]] = tensor
    return blocks


def _window(keys: Keys, architecture: str) -> int:
    """Return the tokens of the sliding window, 0 if there is none."""
    if architecture not in _WINDOWED:
        return 0
    stated = keys.find("attention.sliding_window", ValueType.UINT32, ValueType.ARRAY)
    if stated is None:
        return _DEFAULT_WINDOWS.get(architecture, 0)
    if isinstance(stated.value, int):
        return stated.value
    array = keys.array("attention.sliding_window", ValueType.UINT32, ValueType.INT32)
    return 0 if array is None else int(max(array.numbers(), default=0))


def _layer(keys: Keys, shape: Hyperparameters, index: int, tensors: Mapping[str, Tensor]) -> Layer:
    """Return what the layer `index` keeps and computes."""
    state = _state(keys, shape) if any(name.startswith(_STATE_PARTS) for name in tensors) else 0
    heads = shape.heads[index] if index < len(shape.heads) else 0
    heads_kv = shape.heads_kv[index] if index < len(shape.heads_kv) else 0
    # of the layers with a state some attend too (falcon-h1), and some have a fused projection that is none of attention
    attends = bool(heads_kv) and any(name in tensors for name in (_ATTENTION[:1] if state else _ATTENTION))
    key_width = _rows(tensors, "attn_k") or heads_kv * shape.key_length
    value_width = _rows(tensors, "attn_v") or heads_kv * shape.value_length
    if keys.u32("attention.key_length_mla") and keys.u32("attention.value_length_mla"):
        key_width, value_width = heads_kv * shape.key_length, 0  # values are a part of the keys
    cached = attends and index < _cached_layers(keys, shape)
    return Layer(
        keys=key_width if cached else 0,
        values=value_width if cached else 0,
        heads=heads if attends else 0,
        query=max(_rows(tensors, "attn_q"), heads * shape.key_length) if attends else 0,
        feed_forward=_feed_forward(keys, shape, tensors),
        state=state,
        state_work=_state_work(keys, shape) if state else 0,
    )


def _cached_layers(keys: Keys, shape: Hyperparameters) -> int:
    """Return how many layers, from the first, have a cache of their own; the others share theirs."""
    shared = (keys.u32("attention.shared_kv_layers") or 0) if shape.architecture == "gemma4" else 0
    return min(shape.layers - shared, _OWN_CACHES.get(shape.architecture, shape.layers))


def _rows(tensors: Mapping[str, Tensor], name: str) -> int:
    """Return how many numbers the matrix `name` gives for each token; 0 if there is no such matrix."""
    tensor = tensors.get(f"{name}.weight")
    return tensor.shape[1] if tensor is not None and len(tensor.shape) > 1 else 0


def _feed_forward(keys: Keys, shape: Hyperparameters, tensors: Mapping[str, Tensor]) -> int:
    """Return the numbers for each token while the feed-forward part is computed: the gate, what it gates, the result.

    A plain activation is computed in place, and a gate may be fused with what it gates. Of the experts those count
    that a token goes through; their results wait, side by side, to be added up.
    """
    gate, up = _rows(tensors, "ffn_gate"), _rows(tensors, "ffn_up")
    down = tensors.get("ffn_down.weight")
    inner = down.shape[0] if down is not None else 0
    dense = gate + up + (inner if gate or up != inner else 0)
    experts = tensors.get("ffn_down_exps.weight")
    if experts is None:
        return dense
    used = max(keys.per_layer("expert_used_count", shape.layers, 0, shape.experts) or (1,))
    routed = used * max(3 * experts.shape[0], experts.shape[0] + 2 * shape.width)
    return max(dense, routed + 4 * shape.experts)


def _state(keys: Keys, shape: Hyperparameters) -> int:
    """Return the numbers that a recurrent layer carries for each sequence: the convolution's part and its own."""
    width, heads = shape.width, max(shape.heads[:1], default=0)
    if head := keys.u32("wkv.head_size"):
        shifts = keys.u32("token_shift_count")
        return (2 if shifts is None else shifts) * width + head * width
    if length := keys.u32("shortconv.l_cache"):
        return (length - 1) * width
    kernel = keys.u32("ssm.conv_kernel") or 0
    if head := keys.u32("kda.head_dim"):
        return 3 * max(kernel - 1, 0 if kernel else 3) * heads * head + head * head * heads
    inner, per_channel = keys.u32("ssm.inner_size") or 0, keys.u32("ssm.state_size") or 0
    return max(kernel - 1, 0) * _mixed(keys) + inner * per_channel


def _mixed(keys: Keys) -> int:
    """Return the channels that a state-space layer's convolution runs over."""
    inner, per_channel = keys.u32("ssm.inner_size") or 0, keys.u32("ssm.state_size") or 0
    return inner + 2 * (keys.u32("ssm.group_count") or 0) * per_channel


def _state_work(keys: Keys, shape: Hyperparameters) -> int:
    """Return the numbers for each token while a state is computed.

    Exact to some percent for Mamba-2: the projection, the convolution before and after, and three of the inner width.
    For other recurrent layers, whose steps llama.cpp splits in other ways, a guess of the same kind.
    """
    inner = keys.u32("ssm.inner_size") or 0
    if not inner:
        return 8 * shape.width
    return 4 * inner + 3 * _mixed(keys) + (keys.u32("ssm.time_step_rank") or 0)

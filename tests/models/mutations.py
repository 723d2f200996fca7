"""Hostile files: a good one with one thing changed, the same ones for the same seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path

from attrs import frozen

from tests.models.layout import ARRAY, SCALARS, STRING, Document, Pair, take_apart

_FLOATS = (0.0, -1.0, 1.0, 1e-30, 1e30, -1e30, float("nan"), float("inf"), float("-inf"))
_STRINGS: tuple[bytes, ...] = (
    b"",
    b"\0",
    b"x",
    b"llama",
    b"none",
    b"gpt2",
    b"t5",
    b"rwkv",
    b"bert",
    b"plamo2",
    b"A" * 300,
    b"\xff\xfe",
)
_STRINGS += (b"longrope", b"yarn", b"mamba2", b"qwen2moe", b"gemma4", b"test", b"phi-3", b"llama-bpe", b"glm4")

_OTHER_KEYS = str.split(
    "general.alignment general.file_type general.quantization_version split.no split.count split.tensors.count "
    "*.vocab_size *.embedding_length_out *.expert_count *.expert_used_count *.expert_group_count "
    "*.expert_group_used_count *.expert_shared_count *.expert_feed_forward_length *.expert_shared_feed_forward_length "
    "*.expert_weights_scale *.expert_weights_norm *.expert_gating_func *.leading_dense_block_count "
    "*.nextn_predict_layers *.n_deepstack_layers *.pooling_type *.logit_scale *.attn_logit_softcapping "
    "*.final_logit_softcapping *.residual_scale *.embedding_scale *.interleave_moe_layer_step *.tensor_data_layout "
    "*.attention.max_alibi_bias *.attention.clamp_kqv *.attention.key_length *.attention.value_length "
    "*.attention.layer_norm_epsilon *.attention.group_norm_epsilon *.attention.causal *.attention.q_lora_rank "
    "*.attention.kv_lora_rank *.attention.sliding_window *.attention.sliding_window_pattern *.attention.scale "
    "*.attention.temperature_length *.attention.temperature_scale *.attention.key_length_mla "
    "*.attention.value_length_mla *.attention.key_length_swa *.attention.value_length_swa "
    "*.attention.shared_kv_layers *.attention.rope_pattern *.rope.dimension_count_swa *.rope.dimension_sections "
    "*.rope.freq_base_swa *.rope.scale_linear *.rope.scaling.type *.rope.scaling.factor *.rope.scaling.alpha "
    "*.rope.scaling.attn_factor *.rope.scaling.original_context_length *.rope.scaling.finetuned "
    "*.rope.scaling.yarn_log_multiplier *.rope.scaling.yarn_ext_factor *.rope.scaling.yarn_beta_fast "
    "*.ssm.conv_kernel *.ssm.inner_size *.ssm.state_size *.ssm.time_step_rank *.ssm.group_count *.wkv.head_size "
    "*.classifier.output_labels *.shortconv.l_cache *.decoder_start_token_id *.decoder_block_count "
    "tokenizer.ggml.token_type_count tokenizer.ggml.scores tokenizer.ggml.merges tokenizer.ggml.eot_token_id "
    "tokenizer.ggml.eom_token_id tokenizer.ggml.seperator_token_id tokenizer.ggml.mask_token_id "
    "tokenizer.ggml.cls_token_id tokenizer.ggml.fim_pre_token_id tokenizer.ggml.fim_pad_token_id "
    "tokenizer.ggml.prefix_token_id tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token "
    "tokenizer.ggml.add_sep_token tokenizer.ggml.add_space_prefix tokenizer.ggml.remove_extra_whitespaces "
    "tokenizer.ggml.precompiled_charsmap tokenizer.ggml.suppress_tokens tokenizer.chat_template.tool_use "
    "general.tensor_extra.name general.tensor_extra.prec_a4 xielu.alpha_n"
)


@frozen
class Mutation:
    """A hostile file.

    Args:
        label: What was changed.
        data: The file's bytes.
    """

    label: str
    data: bytes


class Mutator:
    """Makes mutations of one file.

    Args:
        path: A good file.
        seed: Of the random choices.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._base = path.read_bytes()
        self._document = take_apart(path)
        self._random = random.Random(seed)

    def mixed(self, count: int) -> Iterator[Mutation]:
        """Return `count` mutations: of random bytes, of numbers, and of whole keys and tensors, in turn."""
        kinds = (self._byte, self._number, self._field)
        return islice((kinds[index % 3]() for index in range(4 * count)), count)

    def _byte(self) -> Mutation:
        """Change a bit or a byte anywhere in the header, the counts and types more often than the long arrays."""
        spots = self._document.spots
        if self._random.random() < 0.5:
            offset = self._random.randrange(self._document.header_bytes)
        else:
            offset = self._random.choice(spots).offset
        data = bytearray(self._base)
        if self._random.random() < 0.6:
            bit = self._random.randrange(8)
            data[offset] ^= 1 << bit
            return Mutation(f"bit {bit} of byte {offset} flipped", bytes(data))
        data[offset] = self._random.randrange(256)
        return Mutation(f"byte {offset} set to {data[offset]}", bytes(data))

    def _number(self) -> Mutation:
        """Put a boundary value in the place of a number, in place."""
        names = sorted({spot.what.split(":")[0] for spot in self._document.spots})
        name = self._random.choice(names)  # else the long arrays would be all there is
        spot = self._random.choice([spot for spot in self._document.spots if spot.what.split(":")[0] == name])
        size = struct.calcsize("<" + spot.code)
        if spot.code in "fd":
            raw = struct.pack("<" + spot.code, self._random.choice(_FLOATS))
        else:
            old = int.from_bytes(self._base[spot.offset : spot.offset + size], "little")
            raw = (self._boundary(old, 8 * size) % (1 << 8 * size)).to_bytes(size, "little")
        data = self._base[: spot.offset] + raw + self._base[spot.offset + size :]
        return Mutation(f"{spot.what} at byte {spot.offset} set to {raw.hex()}", data)

    def _boundary(self, old: int, bits: int) -> int:
        """Return a value at the edge of something."""
        edges = (0, 1, 2, 3, 7, 255, -1, -2, 1 << (bits - 1), (1 << (bits - 1)) - 1, 1 << 16, 1 << 31, 1 << 20)
        near = (old + 1, old - 1, 2 * old, old // 2, old + 32, 10 * old, old ^ 1)
        small = (self._random.randrange(14), self._random.randrange(44))
        return self._random.choice((*edges, *near, *small))

    def _field(self) -> Mutation:
        """Change a key or a tensor as a whole, and write the file anew around it."""
        document = deepcopy(self._document)
        choice = self._random.random()
        if choice < 0.2:
            label = self._add_pair(document)
        elif choice < 0.65:
            label = self._change_pair(document)
        else:
            label = self._change_tensor(document)
        return Mutation(label, document.encode())

    def _change_pair(self, document: Document) -> str:
        """Drop, double, rename or retype a key, or give it another value."""
        index = self._random.randrange(len(document.pairs))
        pair = document.pairs[index]
        name = pair.key.decode(errors="replace")
        choice = self._random.randrange(8)
        if choice == 0:
            del document.pairs[index]
            return f"{name} dropped"
        if choice == 1:
            document.pairs.insert(self._random.randrange(len(document.pairs)), deepcopy(pair))
            return f"{name} doubled"
        if choice == 2:
            pair.key = self._random.choice((b"", pair.key[:-1], pair.key + b"\0x", pair.key.upper(), b"general.name"))
            return f"{name} renamed to {pair.key!r}"
        if choice == 3:
            return f"{name} retyped: {self._retype(pair)}"
        if pair.kind == STRING:
            text = self._random.choice((*_STRINGS, pair.raw[8:-1], pair.raw[9:]))
            pair.raw = struct.pack("<Q", len(text)) + text
            return f"{name} set to {text[:40]!r}"
        if pair.kind == ARRAY:
            return f"{name}: {self._change_array(pair)}"
        return f"{name} set to {self._change_scalar(pair)}"

    def _add_pair(self, document: Document) -> str:
        """Add a key that llama.cpp knows and that this model does without, with some value of some type."""
        architecture = next(pair.raw[8:] for pair in document.pairs if pair.key == b"general.architecture")
        key = self._random.choice(_OTHER_KEYS).encode().replace(b"*", architecture)
        document.pairs = [pair for pair in document.pairs if pair.key != key]
        pair = Pair(key, self._random.choice((4, 4, 4, 6, 6, 7, STRING, ARRAY, 2, 5)), bytes(4))
        if pair.kind in (4, 6, 5):
            what = self._change_scalar(pair)
        elif pair.kind == STRING:
            text = self._random.choice(_STRINGS)
            pair.raw = struct.pack("<Q", len(text)) + text
            what = repr(text)
        elif pair.kind == ARRAY:
            element, count = self._random.choice((4, 5, 6)), self._random.choice((0, 1, 2, 4))
            items = [struct.pack("<" + SCALARS[element], self._random.choice((0, 1, 2, 8))) for _ in range(count)]
            pair.raw = struct.pack("<IQ", element, count) + b"".join(items)
            what = pair.raw.hex()
        else:
            pair.raw = struct.pack("<" + SCALARS[pair.kind], self._random.choice((0, 1)))
            what = pair.raw.hex()
        document.pairs.insert(self._random.randrange(len(document.pairs)), pair)
        return f"{key.decode()} added: type {pair.kind}, {what}"

    def _change_scalar(self, pair: Pair) -> str:
        """Give a number another value of its type."""
        code = SCALARS[pair.kind]
        if code in "fd":
            pair.raw = struct.pack("<" + code, self._random.choice(_FLOATS))
        else:
            bits = 8 * len(pair.raw)
            old = int.from_bytes(pair.raw, "little")
            pair.raw = (self._boundary(old, bits) % (1 << bits)).to_bytes(len(pair.raw), "little")
        return pair.raw.hex()

    def _retype(self, pair: Pair) -> str:
        """Give a key a well-formed value of another type."""
        kind = self._random.choice([*SCALARS, STRING, ARRAY])
        pair.kind = kind
        if kind == STRING:
            pair.raw = struct.pack("<Q", 1) + b"1"
        elif kind == ARRAY:
            count = self._random.choice((0, 1, 2, 3))
            element = self._random.choice((4, 5, 6, 8))
            items = (struct.pack("<Q", 1) + b"1") * count if element == STRING else bytes([1, 0, 0, 0]) * count
            pair.raw = struct.pack("<IQ", element, count) + items
        else:
            pair.raw = struct.pack("<" + SCALARS[kind], 1)
        return f"type {kind}, {pair.raw.hex()}"

    def _change_array(self, pair: Pair) -> str:
        """Drop, double, empty or replace an item of an array."""
        element, count = struct.unpack_from("<IQ", pair.raw)
        items: list[bytes] = []
        pos = 12
        for _ in range(count):
            size = struct.calcsize("<" + SCALARS[element]) if element != STRING else 0
            size = size or 8 + int.from_bytes(pair.raw[pos : pos + 8], "little")
            items.append(pair.raw[pos : pos + size])
            pos += size
        index = self._random.randrange(count)
        choice = self._random.randrange(4)
        if choice == 0:
            del items[index]
        elif choice == 1:
            items.insert(index, items[index])
        elif choice == 2:
            items[index] = items[self._random.randrange(count)]
        elif element == STRING:
            text = self._random.choice((b"", b"\0", b" ", b"<|im_end|>", b"a\0b", b"\xc3\x28", b"x" * 9000, b"<0x"))
            items[index] = struct.pack("<Q", len(text)) + text
        else:
            code = SCALARS[element]
            value = self._random.choice(_FLOATS) if code in "fd" else self._random.choice((-1, 0, 3, 6, 99))
            items[index] = struct.pack("<" + code, value)
        pair.raw = struct.pack("<IQ", element, len(items)) + b"".join(items)
        return f"item {index} changed ({choice}, {items[min(index, len(items) - 1)][:24]!r})"

    def _change_tensor(self, document: Document) -> str:
        """Drop, double, rename, reshape, retype or move a tensor."""
        index = self._random.randrange(len(document.tensors))
        tensor = document.tensors[index]
        name = tensor.name.decode()
        choice = self._random.randrange(7)
        if choice == 0:
            del document.tensors[index]
            return f"{name} dropped"
        if choice == 1:
            document.tensors.append(deepcopy(tensor))
            return f"{name} doubled"
        if choice == 2:
            other = self._random.choice(document.tensors)
            tensor.name, other.name = other.name, tensor.name
            return f"{name} swapped with {tensor.name.decode()}"
        if choice == 3:
            tensor.dims = self._random.choice(
                (tensor.dims[::-1], [*tensor.dims, 1], [1, *tensor.dims], tensor.dims[:-1])
            )
            return f"{name} reshaped to {tensor.dims}"
        if choice == 4:
            dim = self._random.randrange(len(tensor.dims))
            tensor.dims[dim] = self._boundary(tensor.dims[dim], 64) % (1 << 64)
            return f"{name} reshaped to {tensor.dims}"
        if choice == 5:
            tensor.kind = self._random.randrange(44)
            return f"{name} retyped to {tensor.kind}"
        tensor.offset = self._boundary(tensor.offset, 64) % (1 << 64)
        return f"{name} moved to {tensor.offset}"

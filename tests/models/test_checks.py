"""What native code trusts: every value that could end the process is refused, and good models are let through."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.errors import InvalidModelFileError, ModelNotFoundError
from localllm.models.checks import check_file, check_model
from localllm.models.gguf import read_header
from tests.models.hostile import run_native
from tests.models.layout import Document, Pair, PairValue, TensorEntry, take_apart
from tests.models.tiny import Quantization, Vocab, write_tiny_llama

NAN, INFINITY = float("nan"), float("inf")


def setting(key: str, value: PairValue) -> Callable[[Document], None]:
    """Return a change that puts `value` under `key`."""
    return lambda document: document.set(key, value)


def settings(**values: bool | int | float | str) -> Callable[[Document], None]:
    """Return a change that puts several values under keys of the llama architecture, dots written as __."""

    def change(document: Document) -> None:
        for key, value in values.items():
            document.set(f"llama.{key.replace('__', '.')}", value)

    return change


def dropping(key: str) -> Callable[[Document], None]:
    """Return a change that removes `key`."""
    return lambda document: document.drop(key)


def typed(key: str, kind: int, raw: bytes) -> Callable[[Document], None]:
    """Return a change that puts a value of another type under `key`."""
    return lambda document: document.put(Pair(key.encode(), kind, raw))


def reshaping(name: str, *dims: int) -> Callable[[Document], None]:
    """Return a change that gives a tensor another shape of no more values."""

    def change(document: Document) -> None:
        document.tensor(name).dims = list(dims)

    return change


def retyping(name: str, kind: int) -> Callable[[Document], None]:
    """Return a change that gives a tensor another type."""

    def change(document: Document) -> None:
        document.tensor(name).kind = kind

    return change


def renaming(name: str, new: str) -> Callable[[Document], None]:
    """Return a change that gives a tensor another name."""

    def change(document: Document) -> None:
        document.tensor(name).name = new.encode()

    return change


def u16(key: str, value: int) -> Pair:
    """Return a key with a UINT16."""
    return Pair(key.encode(), 2, struct.pack("<H", value))


def part_of_two(number: int) -> Callable[[Document], None]:
    """Return a change that makes the file a part of a model in two."""

    def change(document: Document) -> None:
        document.put(u16("split.count", 2))
        document.put(u16("split.no", number))

    return change


def odd_keys(document: Document) -> None:
    """Give heads an odd length."""
    document.drop("llama.rope.dimension_count")
    document.set("llama.attention.key_length", 7)
    document.set("llama.attention.value_length", 7)


BAD_VALUES: dict[str, tuple[Callable[[Document], None], str]] = {
    "no architecture": (dropping("general.architecture"), "key general.architecture: this key is missing"),
    "an odd architecture": (setting("general.architecture", "Ll\0ama"), "'Ll\\x00ama'; allowed: up to 64 lower-case"),
    "a number for the architecture": (setting("general.architecture", 7), "the type UINT32; allowed: STRING"),
    "another architecture": (setting("general.architecture", "qwen2"), "key qwen2.block_count: this key is missing"),
    "a vision projector": (setting("general.architecture", "clip"), "a vision projector"),
    "no layers": (setting("llama.block_count", 0), "0; allowed: 1 to 512"),
    "too many layers": (setting("llama.block_count", 513), "513; allowed: 1 to 512"),
    "more layers than tensors": (setting("llama.block_count", 3), "layers [2] of 3"),
    "fewer layers than tensors": (setting("llama.block_count", 1), "tensor blk.1."),
    "layers of a wrong type": (typed("llama.block_count", 10, bytes(8)), "the type UINT64; allowed: UINT32"),
    "no context": (setting("llama.context_length", 0), "0; allowed: 1 to 1073741824"),
    "an endless context": (setting("llama.context_length", 0xFFFFFFFF), "allowed: -2147483647 to 2147483647"),
    "a missing context": (dropping("llama.context_length"), "this key is missing, and llama.cpp needs it"),
    "no width": (setting("llama.embedding_length", 0), "0; allowed: 1 to 16777216"),
    "another width": (setting("llama.embedding_length", 64), "8; allowed here: 16, a whole head's key"),
    "no heads": (dropping("llama.attention.head_count"), "key llama.attention.head_count: this key is missing"),
    "more heads than width": (setting("llama.attention.head_count", 64), "0 for each of 64 heads"),
    "other heads": (setting("llama.attention.head_count", 8), "rope.dimension_count, byte"),
    "uneven heads": (setting("llama.attention.head_count_kv", 3), "3 for layer 0; allowed: divisors of 4"),
    "more key heads than heads": (setting("llama.attention.head_count_kv", 8), "8 for layer 0; allowed: divisors of 4"),
    "heads for three layers": (setting("llama.attention.head_count", [4, 4, 4]), "3 items; allowed: one for each"),
    "negative heads": (setting("llama.attention.head_count", [4, -4]), "-4 for layer 1; allowed: 0 to"),
    "heads of text": (setting("llama.attention.head_count", "4"), "the type STRING; allowed: UINT32 or ARRAY"),
    "heads as fractions": (setting("llama.attention.head_count", [4.0, 4.0]), "an array of FLOAT32"),
    "other key heads": (setting("llama.attention.head_count_kv", [2, 1]), "tensor blk.1.attn_k.weight"),
    "another feed-forward width": (setting("llama.feed_forward_length", 32), "tensor blk.0.ffn_down.weight"),
    "no feed-forward width": (dropping("llama.feed_forward_length"), "this key is missing"),
    "longer keys": (settings(attention__key_length=16), "8; allowed here: 16, as the keys' length"),
    "no keys": (settings(attention__key_length=0), "0 for each of 4 heads"),
    "odd keys": (odd_keys, "7; allowed: even numbers"),
    "half of the rotation": (setting("llama.rope.dimension_count", 4), "4; allowed here: 8, a whole head's key"),
    "too much rotation": (setting("llama.rope.dimension_count", 10), "10; allowed: up to 8"),
    "odd rotation": (setting("llama.rope.dimension_count", 7), "7; allowed: even numbers"),
    "a negative rotation base": (setting("llama.rope.freq_base", -1.0), "-1.0; allowed: positive numbers"),
    "an infinite rotation base": (setting("llama.rope.freq_base", INFINITY), "inf; allowed: finite numbers"),
    "an unknown scaling": (settings(rope__scaling__type="su"), "'su'; allowed: none, linear, yarn, longrope"),
    "a negative scaling": (settings(rope__scaling__factor=-2.0), "-2.0; allowed: 0 (none) and positive numbers"),
    "negative sections": (setting("llama.rope.dimension_sections", [4, -1]), "allowed: up to 4 numbers from 0"),
    "a negative epsilon": (setting("llama.attention.layer_norm_rms_epsilon", -1.0), "-1.0; allowed: positive numbers"),
    "no epsilon": (setting("llama.attention.layer_norm_rms_epsilon", 0.0), "0.0; allowed: positive numbers"),
    "an epsilon of no number": (setting("llama.attention.layer_norm_rms_epsilon", NAN), "nan; allowed: finite numbers"),
    "an array of no numbers": (setting("llama.xielu", [1.0, NAN]), "an array that holds nan"),
    "experts used of none": (settings(expert_used_count=2), "2; allowed: 0 to 0"),
    "experts unused": (settings(expert_count=4), "missing or 0; allowed: 1 to 4"),
    "too many experts": (settings(expert_count=2000), "2000; allowed: 0 to 1024"),
    "groups of no experts": (settings(expert_group_count=2), "2; allowed: 0 to 0"),
    "uneven groups": (settings(expert_count=8, expert_used_count=2, expert_group_count=3), "allowed: divisors of 8"),
    "unused groups": (settings(expert_count=8, expert_used_count=2, expert_group_count=4), "0; allowed: 1 to 3"),
    "an unknown gate": (settings(expert_gating_func=9), "9; allowed: 0 to 4"),
    "only heads of prediction": (settings(nextn_predict_layers=2), "2; allowed: 0 to 1"),
    "an unknown pooling": (settings(pooling_type=9), "9; allowed: 0 to 4"),
    "an embedding model": (settings(attention__causal=False), "which cannot generate text"),
    "an endless window": (settings(attention__sliding_window=1 << 30 | 1), "allowed: 0 to 1073741824"),
    "a division by zero": (settings(wkv__head_size=0), "0; allowed: 1 to"),
    "a temperature of no length": (
        settings(attention__temperature_scale=1.0, attention__temperature_length=0),
        "0; allowed: from 1",
    ),
    "an endless vocabulary": (settings(vocab_size=1 << 30), "allowed: 1 to 279"),
    "an alignment for no memory": (setting("general.alignment", 16), "16 bytes; allowed: multiples of 32"),
    "a swapped matrix": (reshaping("blk.0.ffn_down.weight", 32, 64), "the shape (32, 64); its hyperparameters"),
    "a short norm": (reshaping("output_norm.weight", 16), "the shape (16,); its hyperparameters"),
    "a matrix of integers": (retyping("blk.0.attn_q.weight", 26), "the type I32; allowed here: floating-point"),
    "a matrix of intermediates": (retyping("token_embd.weight", 9), "the type Q8_1; allowed here: floating-point"),
    "a norm of half floats": (retyping("output_norm.weight", 1), "the type F16; allowed here: F32"),
    "no embedding": (renaming("token_embd.weight", "other.weight"), "tensor token_embd.weight is missing"),
    "a layer beyond": (renaming("output.weight", "blk.7.x.weight"), "the model has 2 layers"),
    "a part of a wrong type": (setting("split.count", 2), "key split.count, byte"),
    "a later part": (part_of_two(1), "not the first part of 2"),
    "a nameless part": (part_of_two(0), "must be named name-00001-of-00002.gguf"),
}


@pytest.mark.parametrize("what", BAD_VALUES)
def test_a_value_that_native_code_dies_of_is_refused(what: str, document: Document, tmp_path: Path) -> None:
    """The message names the file, the key or tensor, the value and what is allowed."""
    change, reason = BAD_VALUES[what]
    change(document)
    path = tmp_path / "bad.gguf"
    path.write_bytes(document.encode())
    with pytest.raises(InvalidModelFileError) as caught:
        check_file(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


GOOD_VALUES: dict[str, Callable[[Document], None]] = {
    "as it is": lambda document: None,
    "heads by layer": setting("llama.attention.head_count", [4, 4]),
    "key heads by layer": setting("llama.attention.head_count_kv", [2, 2]),
    "a scaled context": settings(rope__scaling__type="yarn", rope__scaling__factor=4.0),
    "an unknown key": setting("llama.something.new", 3),
    "another alignment": setting("general.alignment", 32),
    "no name": dropping("general.name"),
    "one part of one": lambda document: document.put(u16("split.count", 1)),
}


@pytest.mark.parametrize("what", GOOD_VALUES)
def test_a_good_value_is_let_through(what: str, document: Document, tmp_path: Path) -> None:
    """What llama.cpp runs is not refused."""
    GOOD_VALUES[what](document)
    path = tmp_path / "good.gguf"
    path.write_bytes(document.encode())
    check_file(path)
    assert run_native([(what, path)]) == (["decoded"], [])


@pytest.mark.parametrize("vocab", ["bpe", "spm"])
@pytest.mark.parametrize("quantization", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("n_expert", [0, 4])
def test_tiny_models_are_let_through_and_run(
    vocab: Vocab, quantization: Quantization, n_expert: int, tmp_path: Path
) -> None:
    """Each kind of tiny model passes the guard, is under a megabyte, and llama.cpp decodes with it."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", vocab=vocab, quantization=quantization, n_expert=n_expert)
    assert path.stat().st_size < 1 << 20
    check_file(path)
    assert run_native([("tiny", path)]) == (["decoded"], [])


def test_the_real_model_is_let_through(smollm2: Path) -> None:
    """SmolLM2 passes the guard."""
    assert len(check_file(smollm2).tensors) == 272


def test_a_model_without_vocabulary_has_an_error_of_its_own(tmp_path: Path) -> None:
    """It cannot read or write text, and the message says so; as a header it is fine."""
    path = write_tiny_llama(tmp_path / "none.gguf", vocab="none")
    check_model(read_header(path))
    with pytest.raises(InvalidModelFileError, match=r"has no vocabulary \(tokenizer.ggml.model is missing\)"):
        check_file(path)
    marked = take_apart(path)
    marked.set("tokenizer.ggml.model", "no_vocab")
    path.write_bytes(marked.encode())
    with pytest.raises(InvalidModelFileError, match=r"tokenizer.ggml.model is 'no_vocab'"):
        check_file(path)


def test_a_model_without_vocabulary_cannot_claim_an_endless_one(tmp_path: Path) -> None:
    """llama.cpp makes up as many tokens as the key says, so it must say as many as there are embeddings."""
    path = write_tiny_llama(tmp_path / "none.gguf", vocab="none")
    document = take_apart(path)
    document.set("llama.vocab_size", 1 << 20)
    path.write_bytes(document.encode())
    with pytest.raises(InvalidModelFileError, match="1048576; allowed: 1 to 256"):
        check_model(read_header(path))


def test_metadata_alone_is_no_model(document: Document, tmp_path: Path) -> None:
    """A file without tensors passes as a vocabulary only."""
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(Document(document.pairs, [], b"").encode())
    check_model(read_header(path), vocab_only=True)
    with pytest.raises(InvalidModelFileError, match="it is a vocabulary, not a model"):
        check_file(path)


def test_vocabularies_alone_are_let_through_as_such(vocabularies: list[Path]) -> None:
    """Each of llama.cpp's vocabulary files passes as a vocabulary, and is refused as a model, in its own words."""
    for path in vocabularies:
        header = read_header(path)
        check_model(header, vocab_only=True)
        with pytest.raises(InvalidModelFileError, match="it is a vocabulary, not a model"):
            check_model(header)


def split(document: Document, folder: Path, numbers: tuple[int, int] = (0, 1)) -> Path:
    """Write the model in two parts, and return the first."""
    halves = (document.tensors[:5], document.tensors[5:])
    border = halves[1][0].offset
    total = Pair(b"split.tensors.count", 5, struct.pack("<i", len(document.tensors)))
    for index, (tensors, number) in enumerate(zip(halves, numbers, strict=True)):
        pairs = [u16("split.no", number), u16("split.count", 2), total]
        if index == 0:
            pairs = [*document.pairs, *pairs]
        moved = [TensorEntry(each.name, each.dims, each.kind, each.offset - border * index) for each in tensors]
        data = document.data[:border] if index == 0 else document.data[border:]
        (folder / f"m-0000{index + 1}-of-00002.gguf").write_bytes(Document(pairs, moved, data).encode())
    return folder / "m-00001-of-00002.gguf"


def test_a_model_in_parts_is_checked_in_all_of_them(document: Document, tmp_path: Path) -> None:
    """Whole, it is let through and runs; a part that is missing, out of order or damaged is named."""
    first = split(document, tmp_path)
    assert len(check_file(first).tensors) == len(document.tensors)
    assert run_native([("parts", first)]) == (["decoded"], [])
    second = tmp_path / "m-00002-of-00002.gguf"
    good = second.read_bytes()
    second.write_bytes(good[:-1])
    with pytest.raises(InvalidModelFileError, match=r"m-00002-of-00002.gguf: tensor .* 1 bytes are missing"):
        check_file(first)
    second.write_bytes(first.read_bytes())
    with pytest.raises(InvalidModelFileError, match=r"key split.no, byte .*: 0; allowed here: 1"):
        check_file(first)
    broken = take_apart(first)
    broken.pairs = [u16("split.no", 1)]
    second.write_bytes(broken.encode())
    with pytest.raises(InvalidModelFileError, match="is in another part of the model too"):
        check_file(first)
    second.unlink()
    with pytest.raises(ModelNotFoundError, match=r"the part m-00002-of-00002.gguf is missing"):
        check_file(first)


def test_parts_that_hold_fewer_tensors_than_they_say_are_refused(document: Document, tmp_path: Path) -> None:
    """The count of all parts' tensors must be what the first part says."""
    first = split(document, tmp_path)
    changed = take_apart(first)
    changed.put(Pair(b"split.tensors.count", 5, struct.pack("<i", 99)))
    first.write_bytes(changed.encode())
    with pytest.raises(InvalidModelFileError, match="99, and the parts hold 21"):
        check_file(first)


@pytest.mark.parametrize(
    ("architecture", "extra", "reason"),
    [
        ("smallthinker", {}, "key smallthinker.expert_count: this key is missing"),
        ("dots1", {}, "key dots1.expert_gating_func: this key is missing"),
        ("paddleocr", {}, "key paddleocr.rope.dimension_sections: ()"),
        ("mamba2", {"mamba2.ssm.group_count": 0}, "0; allowed: 1 to"),
        ("rwkv6", {"rwkv6.wkv.head_size": 8, "rwkv6.token_shift_count": 1}, "1; allowed: 2 to"),
        ("nanbeige", {"nanbeige.num_loops": 300}, "300; allowed: 1 to 256"),
        ("lfm2", {"lfm2.shortconv.l_cache": 1}, "1; allowed: 2 to"),
    ],
)
def test_what_certain_architectures_assert_is_checked(
    architecture: str, extra: dict[str, int | float | str | bool], reason: str, tmp_path: Path
) -> None:
    """Values that only some architectures' graphs assert are checked for those."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", architecture=architecture, extra=extra)
    with pytest.raises(InvalidModelFileError) as caught:
        check_file(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("blk.0.ffn_up.weight", "blk.0.ffn_up.scale", "blk.0.ffn_up.bias"),
        ("token_embd.weight", "output.scale"),
        ("token_embd.weight", "output.input_scale"),
    ],
)
def test_nvfp4_weights_with_what_llama_cpp_asserts_against_are_refused(
    names: tuple[str, ...], document: Document, tmp_path: Path
) -> None:
    """A scale and a bias beside NVFP4 weights, or a scale of an output that shares the embedding."""
    tensors = [TensorEntry(name.encode(), [1], 0, 64 * place) for place, name in enumerate(names)]
    tensors[0].dims, tensors[0].kind = [64], 40
    path = tmp_path / "nvfp4.gguf"
    path.write_bytes(Document(document.pairs, tensors, bytes(512)).encode())
    with pytest.raises(InvalidModelFileError, match="NVFP4 weights"):
        check_file(path)

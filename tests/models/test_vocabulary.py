"""What native code trusts in a vocabulary: each rule of each tokenizer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from localllm.errors import InvalidModelFileError
from localllm.models.checks import check_model
from localllm.models.gguf import read_header
from localllm.models.vocabulary import check_vocabulary, has_vocabulary
from tests.models.hostile import run_native
from tests.models.layout import Document, Pair, PairValue, pair, take_apart


def vocabulary(tokenizer: str, tokens: Sequence[str | bytes], **settings: PairValue) -> Document:
    """Return a file that holds nothing but a vocabulary."""
    pairs = [pair("general.architecture", "llama"), pair("tokenizer.ggml.model", tokenizer)]
    pairs.append(pair("tokenizer.ggml.tokens", tokens))
    pairs += [pair(f"tokenizer.ggml.{key}", value) for key, value in settings.items()]
    return Document(pairs, [], b"")


def charsmap(units: Sequence[int], texts: bytes, *, claim: int | None = None) -> Pair:
    """Return the normalization map of a T5 vocabulary."""
    data = (
        struct.pack("<I", 4 * len(units) if claim is None else claim) + struct.pack(f"<{len(units)}I", *units) + texts
    )
    return Pair(b"tokenizer.ggml.precompiled_charsmap", 9, struct.pack("<IQ", 0, len(data)) + data)


def with_map(map_: Pair) -> Document:
    """Return a T5 vocabulary with a normalization map."""
    document = vocabulary("t5", ["a", "b", "c"])
    document.put(map_)
    return document


GPT2 = ["<s>", "</s>", "a", "b", "ab"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

GOOD: dict[str, tuple[Document, int]] = {
    "gpt2": (vocabulary("gpt2", GPT2, merges=["a b"], pre="smollm", bos_token_id=0), 5),
    "gpt2 that adds a token": (vocabulary("gpt2", GPT2, merges=["a b"], pre="llama-bpe", bos_token_id=0), 5),
    "kimi-k2, without merges": (vocabulary("gpt2", GPT2, pre="kimi-k2"), 5),
    "gemma4": (vocabulary("gemma4", GPT2, merges=["a b"], bos_token_id=0), 5),
    "llama": (vocabulary("llama", ["<unk>", "<s>", "</s>", *BYTES]), 259),
    "llama with single bytes": (vocabulary("llama", ["<unk>", "<s>", "</s>", *BYTES[:65], "A", *BYTES[66:]]), 259),
    "empty tokens": (vocabulary("gpt2", ["", "a", b"\0", b"\0x"], merges=["a b"]), 4),
    "tokens of no text": (vocabulary("gpt2", [b"\xff\xfe", "a"], merges=["a b"]), 2),
    "bert": (vocabulary("bert", ["[CLS]", "[SEP]", "a"], bos_token_id=0, seperator_token_id=1), 3),
    "t5": (vocabulary("t5", ["<pad>", "</s>", "a"]), 3),
    "t5 with a map": (with_map(charsmap([1 << 10 | 1 << 8, 1 << 31, *[0] * 510], b"A\0")), 3),
    "rwkv": (vocabulary("rwkv", ["a", "b", "ab", "\\n", "\\x41", "\\x41b", "\\t", "\\\\", "\\xZZ", "a\\"]), 10),
    "plamo2": (vocabulary("plamo2", ["a", "bos", "eos", *BYTES]), 259),
    "test": (vocabulary("test", ["a"]), 1),
    "none": (vocabulary("none", []), 0),
}

BAD: dict[str, tuple[Document, str]] = {
    "an unknown tokenizer": (vocabulary("gpt9", ["a"]), "the tokenizer 'gpt9' is unknown; allowed: llama, gpt2"),
    "no tokens": (vocabulary("gpt2", []), "missing or empty; a vocabulary has at least one token"),
    "a token twice": (vocabulary("gpt2", ["a", "b", "a"], merges=["a b"]), "tokens 0 and 2 are both b'a'"),
    "tokens alike up to a NUL": (vocabulary("gpt2", ["a", b"a\0b"], merges=["a b"]), "tokens 0 and 1 are both b'a'"),
    "a token named as an empty one": (vocabulary("gpt2", ["", "[EMPTY_0]"]), "are both b'[EMPTY_0]'"),
    "an endless token": (vocabulary("gpt2", ["a", "x" * 9000]), "token 1 has 9000 bytes; allowed: up to 8192"),
    "too few scores": (vocabulary("gpt2", GPT2, scores=[1.0]), "scores, byte"),
    "too many types": (vocabulary("gpt2", GPT2, token_type=[1] * 6), "6 items; allowed: one for each of the 5 tokens"),
    "types of fractions": (vocabulary("gpt2", GPT2, token_type=[1.0] * 5), "an array of FLOAT32; allowed: of INT32"),
    "a token id beyond": (vocabulary("gpt2", GPT2, eos_token_id=5), "eos_token_id, byte"),
    "a token id of text": (vocabulary("gpt2", GPT2, eot_token_id="x"), "the type STRING; allowed: UINT32"),
    "a setting of a number": (vocabulary("gpt2", GPT2, add_bos_token=1), "the type UINT32; allowed: BOOL"),
    "no merges": (vocabulary("gpt2", GPT2), "merges: this key is missing, and this tokenizer needs it"),
    "a merge of one part": (vocabulary("gpt2", GPT2, merges=["a b", "ab"]), "merge 1 is b'ab'; allowed: two parts"),
    "merges of numbers": (vocabulary("gpt2", GPT2, merges=[1, 2]), "an array of INT32; allowed: of STRING"),
    "a start that is not there": (
        vocabulary("gpt2", GPT2, merges=["a b"], add_bos_token=True),
        "bos_token_id: missing, and this vocabulary adds that token",
    ),
    "a usual start that is not there": (
        vocabulary("gpt2", GPT2, merges=["a b"], pre="tekken"),
        "bos_token_id: missing",
    ),
    "a forced start that is not there": (
        vocabulary("gemma4", GPT2, merges=["a b"], add_bos_token=False),
        "bos_token_id: missing",
    ),
    "an end that is not there": (vocabulary("gpt2", GPT2, merges=["a b"], add_eos_token=True), "eos_token_id: missing"),
    "no separator": (vocabulary("bert", GPT2, bos_token_id=0), "seperator_token_id: missing"),
    "a byte token for bert": (
        vocabulary("bert", GPT2, bos_token_id=0, seperator_token_id=1, token_type=[1, 1, 6, 1, 1]),
        "a byte token (6), which this tokenizer cannot have",
    ),
    "a byte missing": (vocabulary("llama", ["<unk>", "<s>", "</s>", *BYTES[:-1]]), "no token for the byte 0xFF"),
    "a first byte missing": (vocabulary("rwkv", ["a", "ab", "bc"]), "token 2 begins with the byte b'b'"),
    "endless suffixes": (vocabulary("plamo2", ["x" * 8000 + str(n) for n in range(9)]), "their suffixes take more"),
    "a map too short": (with_map(charsmap([], b"")), "4 bytes with an array of 0"),
    "a map that ends early": (with_map(charsmap([0] * 256, b"", claim=4096)), "an array of 4096"),
    "a map of half units": (with_map(charsmap([0] * 256, b"\0\0", claim=1023)), "an array of 1023"),
    "a map without an end": (with_map(charsmap([0] * 256, b"A")), "does not end with a NUL"),
    "a map that leads out": (with_map(charsmap([512 << 10, *[0] * 255], b"\0")), "unit 0 leads to 512; there are 256"),
    "a map to no text": (
        with_map(charsmap([1 << 8 | 1 << 10, 900, *[0] * 254], b"\0")),
        "unit 0 leads to a text at 900 of 1 bytes",
    ),
}


def write(document: Document, folder: Path) -> Path:
    """Write a document and return where it is."""
    path = folder / "vocabulary.gguf"
    path.write_bytes(document.encode())
    return path


@pytest.mark.parametrize("what", GOOD)
def test_a_good_vocabulary_is_let_through(what: str, tmp_path: Path) -> None:
    """Its tokens are counted."""
    document, count = GOOD[what]
    header = read_header(write(document, tmp_path))
    assert check_vocabulary(header) == count
    assert has_vocabulary(header) is (count > 0)
    check_model(header, vocab_only=True)


@pytest.mark.parametrize("what", BAD)
def test_a_bad_vocabulary_is_refused(what: str, tmp_path: Path) -> None:
    """The message says which key, what it holds and what is allowed."""
    document, reason = BAD[what]
    path = write(document, tmp_path)
    with pytest.raises(InvalidModelFileError) as caught:
        check_model(read_header(path), vocab_only=True)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("tokenizer.chat_template", "x" * (1 << 20 | 1), "1048577 characters; allowed: up to 1048576"),
        ("tokenizer.chat_template", 3, "the type UINT32; allowed: STRING"),
        ("tokenizer.chat_template.tool_use", True, "the type BOOL; allowed: STRING"),
    ],
)
def test_a_template_that_is_no_template_is_refused(key: str, value: PairValue, reason: str, tmp_path: Path) -> None:
    """A chat template is a text of bounded size."""
    document = vocabulary("gpt2", GPT2, merges=["a b"])
    document.set(key, value)
    with pytest.raises(InvalidModelFileError, match=reason):
        check_model(read_header(write(document, tmp_path)), vocab_only=True)


def test_named_templates_are_let_through(tmp_path: Path) -> None:
    """The list of a model's templates, and the templates that it names, are fine."""
    document = vocabulary("gpt2", GPT2, merges=["a b"])
    document.set("tokenizer.chat_templates", ["tool_use"])
    document.set("tokenizer.chat_template.tool_use", "{{ messages }}")
    check_model(read_header(write(document, tmp_path)), vocab_only=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.set("tokenizer.ggml.add_space_prefix", False),
        lambda document: document.set("tokenizer.ggml.suppress_tokens", [1, 2, 999]),
        lambda document: document.set("tokenizer.ggml.add_eos_token", True),
        lambda document: document.drop("tokenizer.ggml.bos_token_id"),
    ],
)
def test_what_is_let_through_runs(change: Callable[[Document], None], tiny_spm: Path, tmp_path: Path) -> None:
    """Settings that llama.cpp takes in its stride are not refused."""
    document = take_apart(tiny_spm)
    change(document)
    path = write(document, tmp_path)
    check_model(read_header(path))
    assert run_native([("vocabulary", path)]) == (["decoded"], [])

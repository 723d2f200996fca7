"""The header reader: good files as the gguf package reads them, bad ones refused with a reason, none with much work."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.errors import InvalidModelFileError, ModelLoadError, ModelNotFoundError
from localllm.models.checks import check_model
from localllm.models.gguf import GGUFArray, ValueType, read_header
from tests.models.layout import ARRAY, STRING, Document, Pair, TensorEntry, pair
from tests.models.tiny import write_tiny_llama

U64_MAX = (1 << 64) - 1


def header(version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    """Return the fixed part of a header."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def one_key(kind: int, raw: bytes, key: bytes = b"k") -> bytes:
    """Return a file of one key."""
    return header(keys=1) + struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + raw


def one_tensor(name: bytes = b"t", dims: Sequence[int] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    """Return a file of one tensor and 128 bytes of data."""
    return Document([], [TensorEntry(name, list(dims), kind, offset)], bytes(128)).encode()


def two_tensors(second_offset: int) -> bytes:
    """Return a file of two tensors of 32 floats each."""
    tensors = [TensorEntry(b"a", [32], 0, 0), TensorEntry(b"b", [32], 0, second_offset)]
    return Document([], tensors, bytes(512)).encode()


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "is empty (0 bytes)"),
    "a text file": (b"# Notes\n\nnothing here\n", "it seems to be a text file"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
    "a web page": (b"<!DOCTYPE html><html>", "it seems to be a web page"),
    "an archive": (b"PK\x03\x04\x00\x00", "a ZIP archive"),
    "a safetensors file": (b'\x40\x00\x00\x00\x00\x00\x00\x00{"a": 1}', "perhaps a safetensors file"),
    "random bytes": (bytes(range(128, 192)), "is not a GGUF file: it begins with"),
    "two bytes": (b"GG", "is not a GGUF file"),
    "the magic alone": (b"GGUF", "the version, byte 4: the file ends too early"),
    "version 0": (header(0), "0x00000000"),
    "version 1": (header(1), "GGUF version 1, which llama.cpp no longer reads"),
    "version 4": (header(4), "GGUF version 4; allowed: 2 and 3"),
    "a big-endian file": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "a big-endian GGUF file"),
    "no counts": (header()[:12], "the count of tensors, byte 8: the file ends too early"),
    "too many tensors": (header(tensors=1 << 40), "1099511627776; allowed: 0 to 65536"),
    "too many keys": (header(keys=U64_MAX), f"the count of keys, byte 16: {U64_MAX}; allowed: 0 to 65536"),
    "more keys than bytes": (header(keys=1000), "1000, which takes 14000 bytes or more, and 0 are left"),
    "more tensors than bytes": (header(tensors=9), "9, which takes 297 bytes or more"),
    "an endless key": (header(keys=1) + struct.pack("<Q", 1 << 50) + bytes(99), "a length of 1125899906842624 bytes"),
    "a key past the end": (header(keys=1) + struct.pack("<Q", 500) + bytes(99), "so 401 are missing"),
    "an empty key": (one_key(4, bytes(4), b""), "the name '' is empty"),
    "a NUL in a key": (one_key(4, bytes(4), b"a\0b"), "holds control characters"),
    "a key of no text": (one_key(4, bytes(4), b"\xff\xfe"), "is not UTF-8"),
    "an unknown type": (one_key(13, bytes(8)), "key k, byte 33: the type 13; allowed: 0 to 12"),
    "no value": (one_key(4, b"\1\2"), "so 2 are missing"),
    "a boolean of 2": (one_key(7, b"\2"), "the boolean 2; allowed: 0 and 1"),
    "booleans of 2": (one_key(ARRAY, struct.pack("<IQ", 7, 2) + b"\1\2"), "an array of booleans that holds 2"),
    "a string past the end": (one_key(STRING, struct.pack("<Q", 60) + b"abc"), "so 57 are missing"),
    "an endless string": (one_key(STRING, struct.pack("<Q", 1 << 62) + b"abc"), "a length of 4611686018427387904"),
    "an array of arrays": (one_key(ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(99)), "an array of arrays"),
    "an array of nothing": (one_key(ARRAY, struct.pack("<IQ", 99, 1) + bytes(99)), "the type 99"),
    "an endless array": (one_key(ARRAY, struct.pack("<IQ", 4, 1 << 61) + bytes(99)), "allowed: 0 to 16777216"),
    "an array past the end": (one_key(ARRAY, struct.pack("<IQ", 4, 999) + bytes(99)), "takes 3996 bytes or more"),
    "strings past the end": (
        one_key(ARRAY, struct.pack("<IQQ", STRING, 2, 900) + bytes(99)),
        "the file ends too early",
    ),
    "strings beyond 64 bits": (
        one_key(ARRAY, struct.pack("<IQQ", STRING, 2, U64_MAX) + bytes(99)),
        "the file ends too early",
    ),
    "a key twice": (
        Document([pair("k", 1), pair("k", 2)], [], b"").encode(),
        "key k, byte 41: this key is there twice",
    ),
    "no alignment": (Document([pair("general.alignment", 0)], [], b"").encode(), "powers of two from 8 to 65536"),
    "an odd alignment": (Document([pair("general.alignment", 48)], [], b"").encode(), "48 bytes; allowed"),
    "a huge alignment": (Document([pair("general.alignment", 1 << 31)], [], b"").encode(), "2147483648 bytes; allowed"),
    "an alignment of text": (Document([pair("general.alignment", "x")], [], b"").encode(), "the type STRING; allowed"),
    "a long tensor name": (one_tensor(name=b"n" * 64), "a length of 64 bytes; allowed: 0 to 63"),
    "a NUL in a tensor name": (one_tensor(name=b"n\0"), "tensor 0, byte 24: the name 'n\\x00'"),
    "no dimensions": (one_tensor(dims=[]), "0 dimensions; allowed: 1 to 4"),
    "five dimensions": (one_tensor(dims=[1] * 5), "5 dimensions; allowed: 1 to 4"),
    "a dimension of 0": (one_tensor(dims=[32, 0]), "tensor t, byte 37: the shape (32, 0)"),
    "an overflowing shape": (one_tensor(dims=[1 << 32, 1 << 32]), "a product below 2**63"),
    "an unknown tensor type": (one_tensor(kind=99), "the tensor type 99 is unknown"),
    "a removed tensor type": (one_tensor(kind=31), "the tensor type 31 (Q4_0_4_4, which ggml has given up)"),
    "rows of half a block": (one_tensor(kind=12), "rows of 32 values, and Q4_K needs a multiple of 256"),
    "a misaligned tensor": (one_tensor(offset=8), "the offset 8 is not a multiple of 32"),
    "a tensor past the end": (one_tensor(dims=[33]), "its 132 bytes reach past the end"),
    "a tensor far beyond": (one_tensor(offset=1 << 63), "reach past the end of the file"),
    "a tensor in another": (two_tensors(64), "the offset 64 lies in the tensor before it, which ends at 128"),
    "a tensor twice": (
        Document([], [TensorEntry(b"t", [8], 0, 0), TensorEntry(b"t", [8], 0, 32)], bytes(99)).encode(),
        "tensor t, byte 57: this name is there twice",
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_refused_with_its_own_reason(what: str, tmp_path: Path) -> None:
    """The message names the file and says what is wrong with it, where, and what is allowed."""
    data, reason = BAD_FILES[what]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(InvalidModelFileError) as caught:
        read_header(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_bad_file_has_a_message_of_its_own() -> None:
    """No two entries of the table expect the same words of the same file."""
    assert len({(data, reason) for data, reason in BAD_FILES.values()}) == len(BAD_FILES)


def test_a_missing_file_and_what_is_no_file_have_errors_of_their_own(tmp_path: Path) -> None:
    """A missing path is a ModelNotFoundError; a directory and a device are invalid model files."""
    (tmp_path / "file").write_bytes(b"x")
    for missing in (tmp_path / "no.gguf", tmp_path / "file" / "no.gguf", tmp_path / "a\0b"):
        with pytest.raises(ModelNotFoundError, match="there is no file"):
            read_header(missing)
    with pytest.raises(InvalidModelFileError, match="is a directory"):
        read_header(tmp_path)
    with pytest.raises(InvalidModelFileError, match="not a regular file"):
        read_header(Path(os.devnull))


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    """A name too long for the system is an error of the load, with the system's reason."""
    with pytest.raises(ModelLoadError, match="cannot read"):
        read_header(tmp_path / ("x" * 5000))


def test_a_truncated_model_says_how_many_bytes_are_missing(tiny: Path, tmp_path: Path) -> None:
    """Cut anywhere, in the header or in the data, a file is refused, and the missing bytes are counted."""
    data = tiny.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in (*range(4, 4000, 97), len(data) - 1, len(data) // 2):
        cut.write_bytes(data[:length])
        with pytest.raises(InvalidModelFileError, match=r"missing|more, and \d+ are left"):
            read_header(cut)
    cut.write_bytes(data[:-1000])
    with pytest.raises(InvalidModelFileError, match="1000 bytes are missing; the file is truncated"):
        read_header(cut)


def same_as_the_gguf_package(path: Path) -> None:
    """Assert that our reader and the gguf package's find the same in the file at `path`."""
    ours = read_header(path)
    theirs = gguf.GGUFReader(path)
    fields = {key: found for key, found in theirs.fields.items() if not key.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, found in ours.metadata.items():
        assert int(fields[key].types[0]) == found.type
        expected = fields[key].contents()
        value = found.value
        if not isinstance(value, GGUFArray):
            assert value == expected
        elif value.element is ValueType.STRING:
            assert [item.decode() for item in value.strings()] == expected
        else:
            assert list(value.numbers()) == list(expected)
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(tensor.shape)
        assert mine.type.id == tensor.tensor_type
        assert ours.data_offset + mine.offset == tensor.data_offset
        assert mine.size_bytes == tensor.n_bytes
        assert prod(mine.shape) == tensor.n_elements


def test_the_real_model_reads_as_with_the_gguf_package(smollm2: Path) -> None:
    """Every key, value, tensor, shape, type, offset and size of SmolLM2 is as the gguf package finds it."""
    same_as_the_gguf_package(smollm2)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_tiny_llama(path, n_embd=32, n_ff=64),
        lambda path: write_tiny_llama(path, vocab="spm", quantization="F16"),
        lambda path: write_tiny_llama(path, quantization="Q8_0", n_expert=4, chat_template=None),
        lambda path: write_tiny_llama(path, vocab="none", extra={"a.b": True, "c": 1.5, "d": "Ünï", "e": 7}),
    ],
    ids=["bpe", "spm-f16", "moe-q8_0", "no-vocabulary"],
)
def test_tiny_models_read_as_with_the_gguf_package(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """What the gguf package wrote, both readers find."""
    same_as_the_gguf_package(write(tmp_path / "tiny.gguf"))


def test_every_type_of_value_is_read(tmp_path: Path) -> None:
    """Each of the format's types comes back as written, with the place where it is."""
    raw = {
        0: b"\xff",
        1: b"\xff",
        2: b"\1\2",
        3: b"\xfe\xff",
        4: b"\1\0\0\0",
        5: b"\xff" * 4,
        6: struct.pack("<f", 0.5),
    }
    raw |= {7: b"\1", 10: b"\xff" * 8, 11: b"\xff" * 8, 12: struct.pack("<d", 0.1)}
    path = tmp_path / "types.gguf"
    path.write_bytes(Document([Pair(b"k%d" % kind, kind, data) for kind, data in raw.items()], [], b"").encode())
    found = read_header(path).metadata
    assert [entry.value for entry in found.values()] == [255, -1, 513, -2, 1, -1, 0.5, True, U64_MAX, -1, 0.1]
    assert [entry.type for entry in found.values()] == list(raw)
    data = path.read_bytes()
    assert all(data[entry.offset :].startswith(raw[entry.type]) for entry in found.values())


def test_an_array_is_only_what_it_is(tmp_path: Path) -> None:
    """Asking an array of numbers for strings, or the other way round, is a TypeError; accessors give None instead."""
    path = tmp_path / "arrays.gguf"
    path.write_bytes(Document([pair("n", [1, -2]), pair("s", ["a", "bc"]), pair("x", True)], [], b"").encode())
    found = read_header(path)
    numbers, strings = found.array("n"), found.array("s")
    assert numbers is not None
    assert strings is not None
    assert (numbers.numbers(), strings.strings()) == ((1, -2), [b"a", b"bc"])
    with pytest.raises(TypeError):
        numbers.strings()
    with pytest.raises(TypeError):
        strings.numbers()
    assert (found.text("n"), found.integer("x"), found.array("x"), found.integer("no")) == (None, None, None, None)


def test_memory_follows_the_file_and_not_its_claims(tmp_path: Path) -> None:
    """A file of a kilobyte that claims millions of items costs less than a megabyte."""
    path = tmp_path / "claims.gguf"
    claims = [one_key(ARRAY, struct.pack("<IQ", kind, 1 << 24) + bytes(1000)) for kind in (0, 4, STRING, 12)]
    claims += [one_key(STRING, struct.pack("<Q", 1 << 26)), header(tensors=1 << 16), header(keys=1 << 16)]
    for claim in claims:
        path.write_bytes(claim)
        tracemalloc.start()
        with pytest.raises(InvalidModelFileError):
            read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


@settings(max_examples=300, deadline=None)
@given(rest=st.binary(max_size=400), good_counts=st.booleans())
def test_random_bytes_are_refused_or_read(
    rest: bytes, good_counts: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing but an InvalidModelFileError comes of any bytes."""
    path = tmp_path_factory.getbasetemp() / "random.gguf"
    path.write_bytes((header(tensors=1, keys=2) if good_counts else b"GGUF" + b"\3\0\0\0") + rest)
    with suppress(InvalidModelFileError):
        check_model(read_header(path))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_header_is_refused_or_read(data: st.DataObject, tiny: Path) -> None:
    """Nothing but an InvalidModelFileError comes of a good header with some bytes changed."""
    good = tiny.read_bytes()
    end = read_header(tiny).data_offset
    changes = data.draw(st.lists(st.tuples(st.integers(4, end - 1), st.integers(0, 255)), min_size=1, max_size=6))
    changed = bytearray(good)
    for offset, byte in changes:
        changed[offset] = byte
    path = tiny.with_name("mutated.gguf")
    path.write_bytes(changed)
    with suppress(InvalidModelFileError):
        check_model(read_header(path))

"""What is known of a model from its header alone, and the hash that tells models apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.errors import InvalidModelFileError
from localllm.models.describe import model_info
from localllm.models.gguf import read_header
from localllm.models.identity import model_hash
from tests.models.layout import Document, take_apart
from tests.models.tiny import CHATML, Quantization, write_tiny_llama


def test_the_real_model_is_described(smollm2: Path) -> None:
    """SmolLM2's facts are those of its model card."""
    info = model_info(smollm2)
    assert (info.name, info.architecture) == ("Smollm2 135M 8k Lc100K Mix1 Ep2", "llama")
    assert (info.parameters, info.quantization) == (134515008, "Q4_1")
    assert (info.context_length, info.vocab_size, info.size_bytes) == (8192, 49152, 98362432)
    assert info.template_source == "model"
    assert "<|im_start|>" in (info.chat_template or "")
    assert (info.path, info.backend, info.n_ctx) == (smollm2, "", 0)


def test_a_model_without_template_and_name_says_so(tmp_path: Path) -> None:
    """The built-in template stands in, and the file's name."""
    path = write_tiny_llama(tmp_path / "anonymous.gguf", chat_template=None)
    document = take_apart(path)
    document.drop("general.name")
    path.write_bytes(document.encode())
    info = model_info(path)
    assert (info.name, info.chat_template, info.template_source) == ("anonymous", None, "builtin")
    assert model_info(write_tiny_llama(path, name="Named", chat_template=CHATML)).chat_template == CHATML


@pytest.mark.parametrize("quantization", ["F32", "F16", "Q8_0"])
def test_the_quantization_is_what_the_tensors_are(quantization: Quantization, tmp_path: Path) -> None:
    """It is what the header states when the tensors bear that out, else the type of most of them."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", quantization=quantization)
    document = take_apart(path)
    for stated in (None, {"F32": 0, "F16": 1, "Q8_0": 7}[quantization], 15, 999, 1024):
        document.drop("general.file_type")
        if stated is not None:
            document.set("general.file_type", stated)
        path.write_bytes(document.encode())
        assert model_info(path).quantization == quantization


def test_a_vocabulary_alone_is_described(tmp_path: Path) -> None:
    """Without tensors there are no parameters and no quantization; a file without tokens may state how many."""
    path = tmp_path / "vocabulary.gguf"
    document = take_apart(write_tiny_llama(path))
    path.write_bytes(Document(document.pairs, [], b"").encode())
    info = model_info(path)
    assert (info.parameters, info.quantization, info.vocab_size) == (0, "", 279)
    assert model_info(write_tiny_llama(path, vocab="none")).vocab_size == 256


def test_the_header_need_not_make_sense_to_be_described(document: Document, tmp_path: Path) -> None:
    """A description does not need the values that a load needs, but a file that can be read."""
    path = tmp_path / "strange.gguf"
    document.drop("general.architecture")
    path.write_bytes(document.encode())
    assert (model_info(path).architecture, model_info(path).context_length) == ("", 0)
    path.write_bytes(b"GGUF")
    with pytest.raises(InvalidModelFileError):
        model_info(path)


def test_a_hash_tells_models_apart(tmp_path: Path) -> None:
    """The same bytes have the same hash; another name, seed, or end of the data has another."""
    first = write_tiny_llama(tmp_path / "first.gguf", seed=1)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(first.read_bytes())
    others = [
        write_tiny_llama(tmp_path / "seed.gguf", seed=2),
        write_tiny_llama(tmp_path / "name.gguf", seed=1, name="Other"),
        tmp_path / "end.gguf",
    ]
    others[2].write_bytes(first.read_bytes()[:-1] + b"\xaa")
    own = model_hash([read_header(first)])
    assert len(own) == 64
    assert model_hash([read_header(copy)]) == own == model_info(first).model_hash
    assert len({own, *(model_hash([read_header(other)]) for other in others)}) == 4


def test_a_hash_needs_little_of_a_large_file(smollm2: Path) -> None:
    """It is that of the file's parts that identity.py names, and not of the whole file."""
    header = read_header(smollm2)
    assert model_hash([header]) == model_hash([header])
    assert model_hash([header]) != model_hash([header, header])

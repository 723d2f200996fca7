"""Which file of a repository is meant, from the names alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import ModelNotFoundError
from localllm.models.quants import PREFERRED, NamedModel, choose, models_among, part_names, quant_in

PARTS = tuple(f"big/m-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-0.5b-instruct-q8_0.gguf", "Q8_0"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("m-IQ4_XS.gguf", "IQ4_XS"),
        ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m-fp16.gguf", "F16"),
        ("m-BF16.gguf", "BF16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("m-TQ1_0.gguf", "TQ1_0"),
        ("Q4_K_M/m-00001-of-00002.gguf", "Q4_K_M"),
        ("Q8_0/m-Q4_K_M.gguf", "Q4_K_M"),
        ("model.gguf", ""),
        ("QUEEN4.gguf", ""),
    ],
)
def test_the_quantization_is_read_from_the_name(name: str, quant: str) -> None:
    """As publishers write it, in the file's name or else its folder's."""
    assert quant_in(name) == quant


def test_parts_are_one_model_and_incomplete_ones_none() -> None:
    """Nor is what lies beside models."""
    names = ["a-Q4_0.gguf", *PARTS, "mmproj-a-F16.gguf", "x.mmproj.gguf", "imatrix_a.gguf", "README.md"]
    expected = (NamedModel(("a-Q4_0.gguf",), "Q4_0"), NamedModel(PARTS, "Q8_0"))
    assert models_among(names) == expected
    assert models_among([name for name in names if "00002" not in name]) == expected[:1]


@given(st.lists(st.sampled_from(PREFERRED), min_size=1, unique=True), st.randoms())
def test_without_a_wish_the_first_of_the_documented_order_is_taken(quants: list[str], dice: random.Random) -> None:
    """In whatever order the files are listed."""
    names = [f"m-{quant}.gguf" for quant in quants]
    dice.shuffle(names)
    assert choose(names, "here") == (f"m-{min(quants, key=PREFERRED.index)}.gguf",)


def test_a_single_model_is_taken_whatever_its_name() -> None:
    """There is no choice."""
    assert choose(["model.gguf"], "here") == ("model.gguf",)
    assert choose(["m-Q2_K.gguf"], "here") == ("m-Q2_K.gguf",)


def test_a_quantization_is_matched_as_a_whole_word() -> None:
    """Q4_K is not Q4_K_M; a publisher's own mixture is taken where the plain one is missing."""
    names = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-UD-Q2_K_XL.gguf"]
    assert choose(names, "here", quant="q4_k_s") == ("m-Q4_K_S.gguf",)
    assert choose(names, "here", quant="Q2_K_XL") == ("m-UD-Q2_K_XL.gguf",)
    with pytest.raises(ModelNotFoundError, match=r"no quantization 'Q4_K'; is it .*It has Q4_K_M, Q4_K_S, UD-Q2_K_XL"):
        choose(names, "here", quant="Q4_K")


def test_several_that_fit_are_listed() -> None:
    """Unless only one of them is not in a folder."""
    with pytest.raises(ModelNotFoundError, match=r"several models that fit; name the file: a-Q4_0.gguf, b-Q4_0.gguf"):
        choose(["a-Q4_0.gguf", "b-Q4_0.gguf"], "here", quant="Q4_0")
    assert choose(["a-Q4_0.gguf", "old/b-Q4_0.gguf"], "here", quant="Q4_0") == ("a-Q4_0.gguf",)


def test_a_file_is_taken_by_its_name_with_all_its_parts() -> None:
    """Also what would not be taken without being named."""
    assert choose([*PARTS, "mmproj.gguf"], "here", file=PARTS[1]) == PARTS
    assert choose([*PARTS, "mmproj.gguf"], "here", file="mmproj.gguf") == ("mmproj.gguf",)
    with pytest.raises(ModelNotFoundError, match=r"lacks .*00003-of-00003"):
        choose(PARTS[:2], "here", file=PARTS[0])
    with pytest.raises(ModelNotFoundError, match=r"no file 'm-Q4_0.gguf'; is it m-Q4_1.gguf"):
        choose(["m-Q4_1.gguf", "zzz.gguf"], "here", file="m-Q4_0.gguf")


def test_long_lists_are_cut() -> None:
    """A message is not a listing."""
    with pytest.raises(ModelNotFoundError, match="and 28 more"):
        choose([f"m{number:02d}-Q4_0.gguf" for number in range(40)], "here")


@given(st.integers(1, 99999), st.integers(1, 99999))
def test_the_names_of_parts_follow_from_any_of_them(number: int, count: int) -> None:
    """As many as the name says, and each leads to the same."""
    count = count % 50 + 1
    names = part_names(f"m-{number:05d}-of-{count:05d}.gguf")
    assert len(names) == count
    assert part_names(names[-1]) == names

"""The hostile test: of a thousand one-place changes of a small model's header, none may end the process.

Each is either refused by the guard, or llama.cpp loads it, reads and writes text and decodes, in a child process, or
says itself that it cannot. Many more run in `make soak`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.models.hostile import run_all, run_native
from tests.models.mutations import Mutation, Mutator
from tests.models.tiny import Quantization, Vocab, write_tiny_llama

VARIANTS: dict[str, tuple[Vocab, Quantization, int, str]] = {
    "bpe": ("bpe", "F32", 0, "llama"),
    "spm": ("spm", "F16", 0, "llama"),
    "q8_0": ("bpe", "Q8_0", 0, "llama"),
    "experts": ("spm", "F32", 4, "llama"),
    "granite": ("bpe", "F32", 0, "granite"),
    "qwen2": ("spm", "F32", 0, "qwen2"),
}
RUNS = [("bpe", 1, 500), ("bpe", 2, 500), *((variant, 3, 200) for variant in VARIANTS if variant != "bpe")]
SOAK = 20_000


def run(variant: str, seed: int, count: int, folder: Path) -> None:
    """Assert that none of `count` mutations of a small model ends the process."""
    vocab, quantization, experts, architecture = VARIANTS[variant]
    base = write_tiny_llama(
        folder / "base.gguf",
        vocab=vocab,
        quantization=quantization,
        n_expert=experts,
        architecture=architecture,
        n_embd=32,
        n_ff=64,
        extra={f"{architecture}.logit_scale": 1.0},
    )
    outcome = run_all(Mutator(base, seed).mixed(count), folder)
    print(f"{variant}, seed {seed}: {count} files, {outcome.refused} refused, {dict(outcome.native)}")
    assert not outcome.killers
    assert outcome.refused + outcome.native.total() == count
    assert outcome.native["decoded"] > count // 10, "the guard lets nothing through, so nothing was tested"
    assert outcome.refused > count // 3


@pytest.mark.parametrize(("variant", "seed", "count"), RUNS)
def test_no_one_place_change_of_a_header_ends_the_process(variant: str, seed: int, count: int, tmp_path: Path) -> None:
    """A thousand changes of the plain model, and some hundred of each other kind."""
    run(variant, seed, count, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_change_of_many_seeds_ends_the_process(variant: str, tmp_path: Path) -> None:
    """The same with tens of thousands of changes."""
    run(variant, int(os.environ.get("LOCALLLM_SEED", "1")), SOAK, tmp_path)


def test_a_killer_would_be_seen(tiny: Path, tmp_path: Path) -> None:
    """Without the guard, a file that llama.cpp aborts on ends the child, the test tells which, and goes on after it."""
    data = tiny.read_bytes()
    place = data.index(b"llama.block_count") + len("llama.block_count") + 4
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(data[:place] + bytes(4) + data[place + 4 :])
    outcomes, killers = run_native([("good", tiny), ("no layers", bad), ("good again", tiny)])
    assert outcomes == ["decoded", "decoded"]
    assert len(killers) == 1
    assert "no layers: exit code -6" in killers[0]
    assert "GGML_ASSERT(hparams.n_layer_all > 0" in killers[0]


def test_the_guard_refuses_that_killer(tiny: Path, tmp_path: Path) -> None:
    """With the guard, it does not come so far."""
    data = tiny.read_bytes()
    place = data.index(b"llama.block_count") + len("llama.block_count") + 4
    outcome = run_all([Mutation("no layers", data[:place] + bytes(4) + data[place + 4 :])], tmp_path)
    assert (outcome.refused, outcome.native.total(), outcome.killers) == (1, 0, ())


def test_the_same_seed_gives_the_same_changes(tiny: Path) -> None:
    """A failure can be run again."""
    first, second, other = (list(Mutator(tiny, seed).mixed(30)) for seed in (1, 1, 2))
    assert first == second != other

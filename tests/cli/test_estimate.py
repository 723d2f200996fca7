"""`localllm estimate`: figures for people and for programs."""

from __future__ import annotations

import json

import pytest
from attrs import asdict, evolve

from localllm import MemoryEstimate, ModelConfig, ModelManager
from localllm.cli import main
from localllm.cli.estimating import verdict
from tests.cli.screen import screen


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `localllm estimate` in this process; return exit code, stdout, stderr."""
    code = main(("estimate", *arguments))
    said = capfd.readouterr()
    return code, said.out, said.err


def expected(config: ModelConfig) -> MemoryEstimate:
    """Return what the manager says."""
    return ModelManager().estimate("smollm2-135m", config)


def test_json_has_all_figures(capfd: pytest.CaptureFixture[str]) -> None:
    """Those of `ModelManager.estimate`, for the options given."""
    options = ("--n-ctx", "1024", "--kv-type", "q8_0", "--parallel", "2")
    code, out, err = run(capfd, "smollm2-135m", "--json", *options)
    assert (code, err) == (0, "")
    found = json.loads(out)
    wanted = asdict(expected(ModelConfig(n_ctx=1024, kv_type="q8_0", n_parallel=2)))
    assert found.pop("ref") == "smollm2-135m"
    assert {**found, "free_bytes": None} == {**wanted, "free_bytes": None}


def test_a_pipe_gets_a_line_for_each_figure(capfd: pytest.CaptureFixture[str]) -> None:
    """Name, tab, value."""
    code, out, _ = run(capfd, "smollm2-135m", "--ctx", "512")
    lines = dict(line.split("\t") for line in out.splitlines())
    wanted = expected(ModelConfig(n_ctx=512))
    assert code == 0
    assert lines["peak_bytes"] == str(wanted.peak_bytes)
    assert lines["fits"] == "true"
    assert set(lines) == set(asdict(wanted))


def test_a_terminal_gets_a_table() -> None:
    """With sizes that a person reads, and a sentence at the end."""
    with screen("estimate", "smollm2-135m", "--n-ctx", "4096") as terminal:
        terminal.expect("4,096 tokens of context")
        for name in ("weights", "KV cache", "at most"):
            terminal.expect(name)
        terminal.expect("It fits: ")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("no-such-model",), 1, "no-such-model"),
        (("smollm2-135m", "--kv-type", "f64"), 2, "--kv-type must be one of f16, q8_0, f32; got 'f64'"),
        (("smollm2-135m", "--n-ctx", "1"), 2, "n_ctx"),
        (("smollm2-135m", "--parallel", "0"), 2, "n_parallel"),
    ],
)
def test_mistakes_are_one_line(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    """And an exit code."""
    found, out, err = run(capfd, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_context_that_a_load_would_clamp_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """The figures are those of the longest context that the model has, and a note says so."""
    code, out, err = run(capfd, "smollm2-135m", "--n-ctx", "99999")
    assert (code, dict(line.split("\t") for line in out.splitlines())["n_ctx"]) == (0, "8192")
    assert (
        err == "note: --n-ctx 99999 is more than the 8192 tokens that the model was trained with; these are reckoned\n"
    )


def test_the_verdict_says_what_would_fit() -> None:
    """Whether it fits, what is free, and the longest context that would; or that nobody knows."""
    fitting = evolve(expected(ModelConfig(n_ctx=512)), free_bytes=1 << 30, fits=True, largest_n_ctx=8192)
    assert verdict(fitting) == "It fits: 1.0 GiB are free; the longest context that fits is 8,192 tokens."
    assert "It does not fit: 1.0 GiB are free" in verdict(evolve(fitting, fits=False))
    assert "(--n-ctx 8192)" in verdict(evolve(fitting, fits=False))
    assert "with any context" in verdict(evolve(fitting, fits=False, largest_n_ctx=0))
    assert "not known" in verdict(evolve(fitting, fits=None, free_bytes=None))

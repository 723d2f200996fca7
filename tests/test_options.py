"""Options: each one's range, the message when it is not kept, and that users and backends see the same options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args, get_origin, get_type_hints

import pytest
from attrs import fields
from hypothesis import given
from hypothesis import strategies as st

from localllm import GenerationOptions, InvalidOptionError, ModelConfig, RequestOptions, UnknownOptionError

GOOD: dict[str, list[object]] = {
    "max_tokens": [1, 2**31 - 1, None],
    "stop": ["x", ["x", "yy"], ("x",), []],
    "timeout_s": [0.001, 60, None],
    "deterministic": [True, False],
    "seed": [0, 2**32 - 2, None],
    "temperature": [0, 0.8, 100],
    "dynatemp_range": [0, 1.5],
    "dynatemp_exponent": [0.1, 100],
    "top_k": [0, 40],
    "top_p": [0.01, 1],
    "min_p": [0, 1],
    "typical_p": [0.01, 1],
    "top_n_sigma": [-1, 0, 3.5],
    "xtc_probability": [0, 1],
    "xtc_threshold": [0, 1],
    "dry_multiplier": [0, 100],
    "dry_base": [1, 1.75],
    "dry_allowed_length": [0, 9],
    "dry_penalty_last_n": [-1, 0, 99],
    "dry_sequence_breakers": [["\n"], []],
    "mirostat": [0, 1, 2],
    "mirostat_tau": [0, 5.0],
    "mirostat_eta": [0, 1],
    "repeat_penalty": [0.1, 1.1],
    "repeat_last_n": [-1, 0, 64],
    "frequency_penalty": [-100, 100],
    "presence_penalty": [-100, 100],
    "logit_bias": [{}, {5: -math.inf, 7: 1.5}],
    "regex": [None, "[a-z]+"],
    "choice": [None, ["yes", "no"]],
    "grammar": [None, "start: /x/"],
    "thoughts": ["keep", "drop", "off"],
    "max_thought_tokens": [None, 0, 99],
    "tool_choice": ["auto", "none", "required", "weather"],
    "parallel_tool_calls": [True, False],
    "run_tools": [True, False],
    "max_tool_rounds": [0, 8, 1000],
    "tool_timeout_s": [None, 0.5],
    "top_logprobs": [None, 0, 5],
}

BAD: dict[str, list[object]] = {
    "max_tokens": [0, -1, 2**31, 1.5, "1", True],
    "stop": ["", ["a", ""], 7, [7], None, b"x", "\ud800"],
    "timeout_s": [0, -1, math.inf, math.nan, "1", True],
    "deterministic": [1, None, "yes"],
    "seed": [-1, 2**32 - 1, 1.0],
    "temperature": [-0.1, 100.1, math.nan, None, "hot", True],
    "dynatemp_range": [-0.1, 101],
    "dynatemp_exponent": [0, -1],
    "top_k": [-1, 1.5, None],
    "top_p": [0, 1.01],
    "min_p": [-0.01, 1.01],
    "typical_p": [0, 1.01],
    "top_n_sigma": [-1.5, math.inf],
    "xtc_probability": [-0.1, 1.1],
    "xtc_threshold": [-0.1, 1.1],
    "dry_multiplier": [-1],
    "dry_base": [0.5],
    "dry_allowed_length": [-1],
    "dry_penalty_last_n": [-2],
    "dry_sequence_breakers": [[""], 7],
    "mirostat": [3, -1, 1.0, True, "1"],
    "mirostat_tau": [-1],
    "mirostat_eta": [-0.1, 1.1],
    "repeat_penalty": [0, -1],
    "repeat_last_n": [-2],
    "frequency_penalty": [101, math.inf],
    "presence_penalty": [-101],
    "logit_bias": [7, [1], {"a": 1}, {-1: 1}, {1: "x"}, {1: math.nan}, {True: 1}, {1: True}],
    "regex": ["", 7, "\ud800"],
    "choice": ["yes", [], [""], ["a", "a"], [7], 7, b"x", ["\ud800"]],
    "grammar": ["", 7, "\ud800"],
    "thoughts": ["yes", None, True],
    "max_thought_tokens": [-1, 1.5, "1"],
    "tool_choice": ["", None, 7],
    "parallel_tool_calls": [1, None],
    "run_tools": [1, None],
    "max_tool_rounds": [-1, 1001, None, 1.0],
    "tool_timeout_s": [0, -1, math.inf, "1"],
    "top_logprobs": [-1, 101, 1.5],
}

CONFIG_GOOD: dict[str, list[object]] = {
    "n_ctx": [8, 4096, None],
    "rope_scaling": ["none", "linear", "yarn", None],
    "rope_freq_scale": [0.25, 1, None],
    "rope_freq_base": [1e-3, 1e6, None],
    "yarn_orig_ctx": [1, 8192, None],
    "threads": [1, 1024, None],
    "gpu_layers": ["auto", 0, 99],
    "n_parallel": [1, 256, None],
    "max_queue": [0, 1],
    "cache_ram_bytes": [0, 1 << 40],
    "prompt_cache_dir": [Path("/var/cache/prompts"), None],
    "prompt_cache_bytes": [1, 1 << 40],
    "n_batch": [1, 65536, None],
    "kv_type": ["f16", "q8_0", "f32"],
    "flash_attention": [True, False, None],
    "chat_template": [None, "{{ messages }}"],
    "mmap": [True, False],
    "repack": [True, False],
    "check_memory": [True, False],
    "step_ms": [1, 60_000],
    "idle_step_ms": [1, 60_000],
}

CONFIG_BAD: dict[str, list[object]] = {
    "n_ctx": [7, -1, 1.5, "8", True],
    "rope_scaling": ["longrope", "", 1],
    "rope_freq_scale": [0, 1.5, "1"],
    "rope_freq_base": [0, -1, math.inf],
    "yarn_orig_ctx": [0, 2**32, 1.5],
    "threads": [0, 1025],
    "gpu_layers": [-1, "all", True, 1.0, None],
    "n_parallel": [0, 257],
    "max_queue": [-1, None],
    "cache_ram_bytes": [-1, None, 1.5],
    "prompt_cache_dir": ["", "a\0b", b"/tmp", 7],
    "prompt_cache_bytes": [0, None, 1.5],
    "n_batch": [0, 65537],
    "kv_type": ["q4_0", None, 7],
    "flash_attention": [1, "yes"],
    "chat_template": ["", "  ", 7],
    "mmap": [0, None],
    "repack": [0, None],
    "check_memory": [0, None],
    "step_ms": [0, 60_001],
    "idle_step_ms": [0, math.nan],
}


def _cases(table: dict[str, list[object]]) -> list[tuple[str, object]]:
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), _cases(GOOD), ids=repr)
def test_an_option_in_its_range_is_taken(name: str, value: object) -> None:
    """At both ends of it."""
    kept = getattr(RequestOptions.of({name: value}), name)
    if name in ("stop", "dry_sequence_breakers"):
        assert kept == ((value,) if isinstance(value, str) else tuple(cast("list[str]", value)))
    elif name == "logit_bias":
        assert dict(kept) == value
    elif name == "choice" and value is not None:
        assert kept == tuple(cast("list[str]", value))
    else:
        assert kept == value


@pytest.mark.parametrize(("name", "value"), _cases(BAD), ids=repr)
def test_an_option_out_of_its_range_is_refused(name: str, value: object) -> None:
    """With the option's name, what is allowed, and mostly the value."""
    with pytest.raises(InvalidOptionError, match=rf"^{name} (must|holds)") as caught:
        RequestOptions.of({name: value})
    assert isinstance(caught.value, ValueError)
    assert not isinstance(caught.value, TypeError)


@pytest.mark.parametrize(("name", "value"), _cases(CONFIG_GOOD), ids=repr)
def test_a_setting_in_its_range_is_taken(name: str, value: object) -> None:
    """At both ends of it."""
    assert getattr(ModelConfig(**{name: value}), name) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), _cases(CONFIG_BAD), ids=repr)
def test_a_setting_out_of_its_range_is_refused(name: str, value: object) -> None:
    """With the setting's name, what is allowed, and the value."""
    with pytest.raises(InvalidOptionError, match=f"^{name} must be .*; got"):
        ModelConfig(**{name: value})  # type: ignore[arg-type]


def test_the_tables_above_leave_nothing_out() -> None:
    """Every option and every setting has good and bad values."""
    options = {each.name for each in fields(RequestOptions)}
    settings = {each.name for each in fields(ModelConfig)}
    assert set(GOOD) == set(BAD) == options
    assert set(CONFIG_GOOD) == set(CONFIG_BAD) == settings


def test_users_and_backends_see_the_same_options() -> None:
    """`GenerationOptions`, which type checkers see, has the fields of `RequestOptions`, in types that convert."""
    seen, kept = get_type_hints(GenerationOptions), get_type_hints(RequestOptions)
    assert list(seen) == [each.name for each in fields(RequestOptions)]
    converted = {"stop", "dry_sequence_breakers", "logit_bias"}
    for name, hint in seen.items():
        if name == "choice":
            assert (hint, kept[name]) == (Sequence[str] | None, tuple[str, ...] | None)
        elif name in converted:
            assert get_origin(kept[name]) is tuple, name
            assert get_origin(hint) is not tuple, name
        else:
            assert hint == kept[name], name
    assert get_args(seen["stop"])[0] is str
    assert GenerationOptions.__required_keys__ == frozenset()


def test_every_option_is_documented() -> None:
    """In the docstring of `RequestOptions`, and settings in that of `ModelConfig`."""
    for kind in (RequestOptions, ModelConfig):
        for each in fields(kind):
            assert f"\n        {each.name}: " in (kind.__doc__ or ""), each.name


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("topk", "top_k"), ("Seed", "seed")],
)
def test_a_typo_names_the_nearest_option(typo: str, nearest: str) -> None:
    """As a TypeError, which Python itself would raise."""
    with pytest.raises(UnknownOptionError, match=f"unknown option '{typo}'; did you mean '{nearest}'") as caught:
        RequestOptions.of({typo: 1})
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, InvalidOptionError)


def test_a_name_like_no_other_gets_the_list() -> None:
    """Nothing is near it."""
    with pytest.raises(UnknownOptionError, match="known options: max_tokens, stop"):
        RequestOptions.of({"zzzzzzzz": 1})


good_layers = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(values)
        for name, values in GOOD.items()
        if name not in ("choice", "grammar")  # which exclude each other, and regex
    },
)


@given(good_layers, good_layers)
def test_later_layers_go_over_earlier_ones(first: dict[str, object], second: dict[str, object]) -> None:
    """Option by option; what no layer sets has its default."""
    assert RequestOptions.of(first, second) == RequestOptions.of({**first, **second})
    assert hash(RequestOptions.of(first)) == hash(RequestOptions.of(dict(reversed(first.items()))))
    assert RequestOptions.of() == RequestOptions()

"""What a user can set: options of a reply, of a model, and their validation.

`GenerationOptions` is the keyword arguments as a type checker sees them; `RequestOptions` is the same, validated,
with every default filled in, as a backend sees it. A test holds the two together. Ranges and defaults are those of
llama.cpp's `common_params_sampling` (its `common/common.h`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict, TypeVar, cast

from attrs import Attribute, evolve, field, fields, frozen

from localllm._validators import (
    check_encodes,
    check_folder,
    check_texts,
    folder_path,
    integer,
    number,
    one_of,
)
from localllm.errors import InvalidOptionError, UnknownOptionError

_V = TypeVar("_V")


class GenerationOptions(TypedDict, total=False):
    """Keyword arguments of `send`, `stream` and `ChatSession`; see `RequestOptions` for each one's meaning."""

    max_tokens: int | None
    stop: str | Sequence[str]
    timeout_s: float | None
    deterministic: bool
    seed: int | None
    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    mirostat: Literal[0, 1, 2]
    mirostat_tau: float
    mirostat_eta: float
    repeat_penalty: float
    repeat_last_n: int
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    regex: str | None
    choice: Sequence[str] | None
    grammar: str | None
    thoughts: Literal["keep", "drop", "off"]
    max_thought_tokens: int | None
    tool_choice: str
    parallel_tool_calls: bool
    run_tools: bool
    max_tool_rounds: int
    tool_timeout_s: float | None
    top_logprobs: int | None


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    """A converter: one str becomes a tuple of one, a sequence a tuple; the rest is left for `check_texts`."""
    given: object = value  # what users pass is checked by `check_texts`, with the option's name
    if isinstance(given, bytes) or not isinstance(given, Sequence):
        return cast("tuple[str, ...]", value)
    return (value,) if isinstance(value, str) else tuple(value)


_Bias = tuple[tuple[int, float], ...]


def _pairs(value: Mapping[int, float] | _Bias) -> _Bias:
    """A converter: a mapping becomes a sorted tuple of pairs, so that options can be compared and hashed."""
    if isinstance(value, Mapping):
        return tuple(sorted(value.items(), key=lambda pair: str(pair[0])))
    return value


def _check_bias(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    if not isinstance(value, tuple):
        raise InvalidOptionError(f"{attribute.name} must map token ids to numbers; got {value!r:.80}")
    for pair in value:
        token, bias = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, None)
        token_fits = isinstance(token, int) and not isinstance(token, bool) and token >= 0
        if not token_fits or not isinstance(bias, (int, float)) or isinstance(bias, bool) or math.isnan(bias):
            raise InvalidOptionError(
                f"{attribute.name} must map token ids (0 or more) to numbers (-inf forbids a token); got {pair!r:.80}"
            )


def _choices(value: Sequence[str] | None) -> tuple[str, ...] | None:
    """A converter: a sequence becomes a tuple; one str is a mistake that `_check_choice` reports."""
    given: object = value
    if given is None or isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        return cast("tuple[str, ...] | None", given)
    return tuple(given)


def _check_choice(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    if value is None:
        return
    if not isinstance(value, tuple) or not value:
        raise InvalidOptionError(f"{attribute.name} must be a sequence of at least one str; got {value!r:.80}")
    check_texts(instance, attribute, value)
    if len(set(value)) < len(value):
        raise InvalidOptionError(f"{attribute.name} holds a text twice; got {value!r:.80}")


def _check_pattern(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    if value is None and attribute.default is None:
        return
    if not isinstance(value, str) or not value:
        raise InvalidOptionError(f"{attribute.name} must be a str that is not empty; got {value!r:.80}")
    check_encodes(attribute.name, value)


@frozen(kw_only=True)
class RequestOptions:
    """The options of one reply, validated, every default filled in.

    Args:
        max_tokens: Tokens to generate at most; None is as many as the context window holds.
        stop: Texts that end the reply; they are not part of it.
        timeout_s: Seconds for the whole reply, its wait in the queue included; None is no limit.
        deterministic: The tokens depend neither on what else runs nor on what was cached.
        seed: Of the random numbers; None takes a new one each time.
        temperature: 0 is greedy: always the likeliest token.
        dynatemp_range: Width of the dynamic temperature around `temperature`; 0 is off.
        dynatemp_exponent: How entropy maps to the dynamic temperature.
        top_k: Keep the k likeliest tokens; 0 is off.
        top_p: Keep the likeliest tokens up to this total probability; 1 is off.
        min_p: Keep tokens of at least this part of the likeliest one's probability; 0 is off.
        typical_p: Locally typical sampling; 1 is off.
        top_n_sigma: Keep logits within n standard deviations of the highest; -1 is off.
        xtc_probability: How often XTC removes the likeliest tokens; 0 is off.
        xtc_threshold: XTC removes tokens above this probability but the last of them.
        dry_multiplier: Strength of the DRY penalty on repeated sequences; 0 is off.
        dry_base: Growth of the DRY penalty by each further token of a repeated sequence.
        dry_allowed_length: Repetitions up to this many tokens are not penalized.
        dry_penalty_last_n: Tokens that DRY looks back; -1 is the whole context, 0 is off.
        dry_sequence_breakers: Texts across which DRY sees no repetition.
        mirostat: 0 is off, 1 and 2 are the versions; replaces the samplers that truncate.
        mirostat_tau: Mirostat's target entropy.
        mirostat_eta: Mirostat's learning rate.
        repeat_penalty: Divides the logits of tokens seen lately; 1 is off.
        repeat_last_n: Tokens that the three penalties look back; -1 is the whole context, 0 is off.
        frequency_penalty: Taken from a logit for each time its token was seen lately.
        presence_penalty: Taken once from the logit of each token seen lately.
        logit_bias: Added to the logits of these tokens; -inf forbids one.
        regex: A regular expression that the whole text matches.
        choice: Texts of which the reply is one.
        grammar: A grammar that the text follows, in llguidance's dialect of Lark; its first rule is `start`.
        thoughts: What becomes of reasoning: "keep" it apart, as thought segments and `Reply.thought`; "drop" it; or
            turn it "off", where the chat template has a switch for that.
        max_thought_tokens: Tokens that a thought may take before it is closed; None is no limit.
        tool_choice: "auto" lets the model choose, "none" forbids calls, "required" asks for at least one, and a tool's
            name for that one.
        parallel_tool_calls: Whether one reply may call more than once.
        run_tools: Whether a session runs the calls and goes on; else its reply is the calls.
        max_tool_rounds: How often calls are run and the model is asked again, within one turn. After the last time it
            is asked for an answer without calls.
        tool_timeout_s: Seconds for each call; None is no limit.
        top_logprobs: Log-probabilities to give with each token, of so many of the likeliest; 0 is of the token alone,
            None is none. They are of the raw distribution, before any sampler.

    Raises:
        InvalidOptionError: A value of the wrong type or out of range; the message has both.
    """

    max_tokens: int | None = field(default=None, validator=integer(1, none="until the context is full"))
    stop: tuple[str, ...] = field(default=(), converter=_texts, validator=check_texts)
    timeout_s: float | None = field(default=None, validator=number(0, above=True, none="no limit"))
    deterministic: bool = field(default=False, validator=one_of(False, True))
    seed: int | None = field(default=None, validator=integer(0, 2**32 - 2, none="a new one each time"))
    temperature: float = field(default=0.8, validator=number(0, 100))
    dynatemp_range: float = field(default=0.0, validator=number(0, 100))
    dynatemp_exponent: float = field(default=1.0, validator=number(0, 100, above=True))
    top_k: int = field(default=40, validator=integer(0))
    top_p: float = field(default=0.95, validator=number(0, 1, above=True))
    min_p: float = field(default=0.05, validator=number(0, 1))
    typical_p: float = field(default=1.0, validator=number(0, 1, above=True))
    top_n_sigma: float = field(default=-1.0, validator=number(-1))
    xtc_probability: float = field(default=0.0, validator=number(0, 1))
    xtc_threshold: float = field(default=0.1, validator=number(0, 1))
    dry_multiplier: float = field(default=0.0, validator=number(0, 100))
    dry_base: float = field(default=1.75, validator=number(1, 100))
    dry_allowed_length: int = field(default=2, validator=integer(0))
    dry_penalty_last_n: int = field(default=-1, validator=integer(-1))
    dry_sequence_breakers: tuple[str, ...] = field(
        default=("\n", ":", '"', "*"), converter=_texts, validator=check_texts
    )
    mirostat: Literal[0, 1, 2] = field(default=0, validator=one_of(0, 1, 2))
    mirostat_tau: float = field(default=5.0, validator=number(0, 100))
    mirostat_eta: float = field(default=0.1, validator=number(0, 1))
    repeat_penalty: float = field(default=1.0, validator=number(0, 100, above=True))
    repeat_last_n: int = field(default=64, validator=integer(-1))
    frequency_penalty: float = field(default=0.0, validator=number(-100, 100))
    presence_penalty: float = field(default=0.0, validator=number(-100, 100))
    logit_bias: _Bias = field(default=(), converter=_pairs, validator=_check_bias)
    regex: str | None = field(default=None, validator=_check_pattern)
    choice: tuple[str, ...] | None = field(default=None, converter=_choices, validator=_check_choice)
    grammar: str | None = field(default=None, validator=_check_pattern)
    thoughts: Literal["keep", "drop", "off"] = field(default="keep", validator=one_of("keep", "drop", "off"))
    max_thought_tokens: int | None = field(default=None, validator=integer(0, none="no limit"))
    tool_choice: str = field(default="auto", validator=_check_pattern)
    parallel_tool_calls: bool = field(default=True, validator=one_of(False, True))
    run_tools: bool = field(default=True, validator=one_of(False, True))
    max_tool_rounds: int = field(default=8, validator=integer(0, 1000))
    tool_timeout_s: float | None = field(default=None, validator=number(0, above=True, none="no limit"))
    top_logprobs: int | None = field(default=None, validator=integer(0, 100, none="none are wanted"))

    def __attrs_post_init__(self) -> None:
        given = [name for name in ("regex", "choice", "grammar") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidOptionError(f"{' and '.join(given)} exclude each other; a reply follows one grammar")

    @classmethod
    def of(cls, *layers: Mapping[str, object]) -> RequestOptions:
        """Return the options that `layers` set, later ones over earlier ones.

        Raises:
            UnknownOptionError: No option has this name; the message names the nearest.
            InvalidOptionError: A value of the wrong type or out of range.
        """
        options = cls()
        for layer in layers:
            check_names(layer, OPTION_NAMES)
            options = evolve(options, **cast("GenerationOptions", layer))
        return options


@frozen(kw_only=True)
class ModelConfig:
    """How a model is loaded; None leaves a choice to the backend, which makes it from the model and the machine.

    Args:
        n_ctx: Tokens of the context window at most; None is as trained. More needs one of the next three, else clamped.
        rope_scaling: How positions beyond that are made: "linear", "yarn", "none"; None is as the model says.
        rope_freq_scale: What positions are multiplied by, 0.5 for twice the length; None is what `n_ctx` needs.
        rope_freq_base: Base of the rotary frequencies; None is the model's.
        yarn_orig_ctx: Tokens that YaRN takes the model to be trained with; None is what the model says.
        threads: Threads that compute; None is one for each physical core.
        gpu_layers: Layers to offload to a GPU, or "auto" for as many as fit.
        n_parallel: Replies that run at once; further ones wait in the queue.
        max_queue: Requests that may wait; one more raises QueueFullError.
        n_batch: Tokens that one step computes at most.
        cache_ram_bytes: Host memory for chats that are idle while others run; 0 keeps them in the KV cache, where
            they slow the others down.
        prompt_cache_dir: A folder for what the model computes of long system prompts, so that the next start need not
            read them again; None writes nothing (docs/sessions.md). For llama.cpp; other backends take no notice.
        prompt_cache_bytes: Bytes that the folder may hold; what was used longest ago goes first.
        kv_type: Precision of the KV cache: "f16", "q8_0" or "f32".
        flash_attention: Whether attention is computed in one fused step; None is with a GPU only (docs/defaults.md).
        chat_template: A Jinja template to use in place of the model's own; "none" for raw text: the messages' contents
            one after the other, without any control token but the one that begins a text, if the model has one.
        mmap: Map the weights from the file, so that processes share them.
        repack: Lay the weights out anew for the processor where llama.cpp has faster code for that, and it works: with
            AMX twice as fast. They are memory of each process's own then. False leaves them as they are in the file.
        check_memory: Refuse to load what doesn't fit into the memory that is free, and choose a context window that
            does if `n_ctx` is None. The estimate is within some percent (docs/estimate.md).
        step_ms: Milliseconds that one step should take at most while a reply is streaming; smaller is smoother and
            cancels sooner, larger reads prompts faster.
        idle_step_ms: The same while nothing is streaming.

    Raises:
        InvalidOptionError: A value of the wrong type or out of range; the message has both.
    """

    n_ctx: int | None = field(default=None, validator=integer(8, none="as trained"))
    rope_scaling: Literal["none", "linear", "yarn"] | None = field(
        default=None, validator=one_of(None, "none", "linear", "yarn")
    )
    rope_freq_scale: float | None = field(default=None, validator=number(0, 1, above=True, none="what n_ctx needs"))
    rope_freq_base: float | None = field(default=None, validator=number(0, above=True, none="the model's"))
    yarn_orig_ctx: int | None = field(default=None, validator=integer(1, 2**32 - 1, none="as the model says"))
    threads: int | None = field(default=None, validator=integer(1, 1024, none="one for each core"))
    gpu_layers: int | Literal["auto"] = field(default="auto")
    n_parallel: int | None = field(default=None, validator=integer(1, 256, none="chosen by the backend"))
    max_queue: int = field(default=1024, validator=integer(0))
    n_batch: int | None = field(default=None, validator=integer(1, 65536, none="chosen by the backend"))
    cache_ram_bytes: int = field(default=512 << 20, validator=integer(0, 2**63 - 1))
    prompt_cache_dir: Path | None = field(default=None, converter=folder_path, validator=check_folder)
    prompt_cache_bytes: int = field(default=1 << 30, validator=integer(1, 2**63 - 1))
    kv_type: Literal["f16", "q8_0", "f32"] = field(default="f16", validator=one_of("f16", "q8_0", "f32"))
    flash_attention: bool | None = field(default=None, validator=one_of(None, False, True))
    chat_template: str | None = field(default=None)
    mmap: bool = field(default=True, validator=one_of(False, True))
    repack: bool = field(default=True, validator=one_of(False, True))
    check_memory: bool = field(default=True, validator=one_of(False, True))
    step_ms: float = field(default=80.0, validator=number(1, 60_000))
    idle_step_ms: float = field(default=250.0, validator=number(1, 60_000))

    @gpu_layers.validator
    def _check_gpu_layers(self, attribute: Attribute[object], value: object) -> None:
        count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
        if value != "auto" and not count:
            raise InvalidOptionError(f"gpu_layers must be 'auto' or an integer from 0; got {value!r:.80}")

    @chat_template.validator
    def _check_chat_template(self, attribute: Attribute[object], value: object) -> None:
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise InvalidOptionError(f"chat_template must be a Jinja template, 'none' or None; got {value!r:.80}")


@frozen(kw_only=True)
class Timeouts:
    """How long a model in a worker process may take for each thing, in seconds; None is no limit.

    Args:
        start_s: To start the process and import the backend: WorkerStartTimeoutError.
        load_s: To load the model: LoadTimeoutError.
        first_token_s: From a request to its first token, or to any event while it only reads: FirstTokenTimeoutError.
            A request that waits for others counts from the last sign of life of any of them.
        between_tokens_s: From one token of a reply to the next: TokenTimeoutError.
        reply_s: For a whole reply that has no `timeout_s` of its own: ReplyTimeoutError.
        close_s: To end a request that ran out of time, to answer a question such as `tokenize` beyond the time of a
            first token, or to close. A worker that takes longer is ended, and replaced when the model is next used.
        heartbeat_s: Without any sign of life, before a process that does not compute either counts as frozen:
            WorkerFrozenError.

    Raises:
        InvalidOptionError: A value of the wrong type or out of range.
    """

    start_s: float | None = field(default=60.0, validator=number(0, above=True, none="no limit"))
    load_s: float | None = field(default=600.0, validator=number(0, above=True, none="no limit"))
    first_token_s: float | None = field(default=600.0, validator=number(0, above=True, none="no limit"))
    between_tokens_s: float | None = field(default=120.0, validator=number(0, above=True, none="no limit"))
    reply_s: float | None = field(default=None, validator=number(0, above=True, none="no limit"))
    close_s: float = field(default=5.0, validator=number(0, above=True))
    heartbeat_s: float = field(default=5.0, validator=number(0, above=True))


OPTION_NAMES: tuple[str, ...] = tuple(attribute.name for attribute in fields(RequestOptions))


def check_names(given: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Raise UnknownOptionError, naming the nearest known option, if `given` has a name that is not in `known`."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(known)}"
            raise UnknownOptionError(f"unknown option {name!r}; {hint}")

"""Any message of the protocol, for hypothesis."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import get_type_hints

from hypothesis import strategies as st

from localllm import errors as ours
from localllm.backends.base import GenerateRequest, LoadProgress, ModelSpec, ResumePoint
from localllm.backends.worker import messages as m
from localllm.backends.worker.failures import to_failure
from localllm.chat.definitions import ToolDefinition
from localllm.chat.grammar import Grammar
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.errors import FirstTokenTimeoutError, LocalLLMError
from localllm.models.info import ModelInfo
from localllm.options import ModelConfig, RequestOptions
from localllm.saved.state import StateUse
from localllm.types import (
    BackendEvent,
    GenerationEnded,
    Message,
    PromptProgress,
    TextDelta,
    Timings,
    TokenIds,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)

text = st.text(max_size=12)  # hypothesis leaves lone surrogates out
said = text.map(lambda value: value.replace("\0", ""))
number = st.integers(0, 2**31 - 1)
tokens = st.lists(number, max_size=5).map(tuple)
seconds = st.floats(0, 1e6)
ids = st.integers(0, 2**40)

_leaf = st.none() | st.booleans() | st.integers() | seconds | text
json_values = st.recursive(_leaf, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2))
calls = st.builds(ToolCall, text, st.dictionaries(text, json_values, max_size=2), text)
token_ids = st.none() | st.builds(TokenIds, text, tokens)
conversation = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "tool"]), said, tool_call_id=st.none() | said)
    | st.builds(
        Message,
        st.just("assistant"),
        text,
        thought=st.none() | text,
        tool_calls=st.lists(calls, max_size=2),
        finish_reason=st.sampled_from([None, "stop", "cancelled"]),
        token_ids=token_ids,
    ),
    max_size=3,
).map(tuple)

options = st.builds(
    RequestOptions,
    max_tokens=st.none() | st.integers(1, 1000),
    stop=st.lists(st.text(min_size=1, max_size=4), max_size=2),
    timeout_s=st.none() | st.floats(0.001, 1e6),
    seed=st.none() | st.integers(0, 2**32 - 2),
    temperature=st.floats(0, 100),
    logit_bias=st.dictionaries(st.integers(0, 100_000), st.floats(-100, 100) | st.just(float("-inf")), max_size=3),
)
schemas = st.dictionaries(text, json_values, max_size=2)
tools = st.lists(st.builds(ToolDefinition, text, text, schemas, st.booleans()), max_size=2).map(tuple)
grammars = st.builds(Grammar, st.sampled_from(["json_schema", "regex", "choice", "lark"]), text)
requests = st.builds(
    GenerateRequest,
    messages=conversation,
    grammar=st.none() | grammars,
    tools=tools,
    prefix=text,
    options=options,
    purpose=st.sampled_from(["reply", "preload", "complete"]),
    resume=st.none() | st.builds(ResumePoint, token_ids=tokens, delivered_chars=number),
)
paths = st.binary(min_size=1, max_size=12).filter(lambda raw: b"\0" not in raw).map(lambda raw: Path(os.fsdecode(raw)))
specs = st.builds(
    ModelSpec,
    ref=paths.map(str),
    path=st.none() | paths,
    config=st.builds(ModelConfig, n_ctx=st.none() | st.integers(8, 9999), gpu_layers=st.just("auto") | number),
)
infos = st.builds(ModelInfo, name=text, parameters=number, chat_template=st.none() | text, path=st.none() | paths)
stats = st.builds(ModelStats, running=number, finished=number, batch_fill=seconds)
likely = st.tuples(number, text, st.floats(max_value=0, allow_nan=False))
chances = st.builds(TokenLogprob, number, text, st.floats(max_value=0), st.lists(likely, max_size=2).map(tuple))
logprobs = st.lists(chances, max_size=2).map(tuple)
usages = st.builds(Usage, number, number, number, number)
timings = st.builds(Timings, seconds, seconds, seconds, seconds, seconds)
kinds = [kind for kind in vars(ours).values() if isinstance(kind, type) and issubclass(kind, LocalLLMError)]


def errors_of(kind: type[LocalLLMError]) -> st.SearchStrategy[LocalLLMError]:
    """Errors of a class with anything in what its constructor takes; but no reply, which is given where it is raised.

    What the wire has to carry is read off the constructor, so that a new argument is tried as soon as it is there.
    """
    hints = get_type_hints(kind.__init__, localns={"Reply": object})
    names = [name for name in inspect.signature(kind).parameters if name not in ("message", "reply")]
    plain = {str: text, object: json_values}
    given = {name: plain[hints[name]] if hints[name] in plain else st.from_type(hints[name]) for name in names}
    return st.builds(kind, text, **given)


errors: st.SearchStrategy[LocalLLMError] = st.sampled_from(kinds).flatmap(errors_of)
ends = (
    st.builds(
        GenerationEnded,
        st.sampled_from(["stop", "length", "tool_calls", "cancelled", "timeout"]),
        usages,
        timings,
        token_ids,
        st.lists(calls, max_size=2).map(tuple),
        notes=st.lists(text, max_size=2).map(tuple),
        taken_chars=number,
    )
    | st.builds(lambda error: GenerationEnded("error", error=error), errors)
    | st.builds(lambda text: GenerationEnded("timeout", error=FirstTokenTimeoutError(text)), text)
)
events: st.SearchStrategy[BackendEvent] = (
    st.builds(PromptProgress, number, number, number)
    | st.builds(TextDelta, text, st.sampled_from(["text", "thought"]), tokens, logprobs)
    | st.builds(ToolCallStarted, number, text, text, tokens)
    | st.builds(ToolCallDelta, number, text, tokens)
    | st.builds(ToolCallEnded, number, calls, tokens)
    | ends
)
failures = st.builds(m.Failure, kind=text, message=text, cause=text, notes=st.lists(text, max_size=2).map(tuple)) | (
    errors.map(to_failure)
)
questions: st.SearchStrategy[m.Question] = (
    st.builds(m.Tokenize, text)
    | st.builds(m.Detokenize, tokens)
    | st.builds(m.Render, conversation, tools)
    | st.builds(m.Stats)
    | st.builds(m.SaveState, requests, paths, number)
    | st.builds(m.LoadState, paths)
)
findings: st.SearchStrategy[m.Finding] = (
    st.builds(m.TokensAre, tokens)
    | st.builds(m.TextIs, text)
    | st.builds(m.PromptIs, st.builds(RenderedPrompt, text, tokens))
    | st.builds(m.StatsAre, stats)
    | st.builds(m.StateIs, st.builds(StateUse, number, text))
)
to_child: st.SearchStrategy[m.ToChild] = st.one_of(
    st.builds(m.Start, protocol=number, version=text, backend=text, sys_path=st.lists(text, max_size=3).map(tuple)),
    st.builds(m.Load, specs),
    st.builds(m.Generate, ids, requests),
    st.builds(m.Cancel, ids),
    st.builds(m.Ask, ids, questions),
    st.builds(m.Close),
)
to_parent: st.SearchStrategy[m.ToParent] = st.one_of(
    st.builds(m.Started, protocol=number, version=text, backend=text, uses_files=st.booleans()),
    st.builds(m.Progress, st.builds(LoadProgress, text, seconds)),
    st.builds(m.LoadedIn, info=infos),
    st.builds(m.Accepted, ids),
    st.builds(m.Events, st.lists(st.builds(m.EventOf, ids, events), max_size=3).map(tuple)),
    st.builds(m.Answer, ids, findings),
    st.builds(m.Failed, ids, failures),
    st.builds(m.Beat, marks=number, memory_bytes=number),
    st.builds(m.Logged, logger=text, level=st.integers(0, 50), text=text),
    st.builds(m.Closed, st.none() | stats),
)

"""The real model's replies under a few hundred schemas, at a temperature at which it babbles: whole ones match."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm import (
    ChatSession,
    InvalidSchemaError,
    Model,
    ModelConfig,
    ModelManager,
    OutputValidationError,
    TruncatedOutputError,
)
from localllm._json import JsonValue
from localllm.output.checks import rules_of
from tests.output import schemas
from tests.output.validators import complaint
from tests.output.walks import walk

_MAX_TOKENS = 400


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Iterator[Model]:
    """The small model, in this process."""
    with ModelManager(isolation="thread") as models:
        yield models.load(smollm2_path, config=ModelConfig(n_ctx=1024, threads=min(2, os.cpu_count() or 1)))


def _outcome(model: Model, name: str, schema: dict[str, JsonValue], seed: int) -> str:
    """How a reply under `schema` ended: "right", "cut off", or what is wrong with it."""
    chat = ChatSession(model, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=seed, max_tokens=_MAX_TOKENS)
    try:
        reply = chat.send(f"Answer with a JSON value: {name}.", schema=schema)
    except TruncatedOutputError:
        return "cut off"
    except OutputValidationError as exc:
        return f"wrong: {name}: {exc}"
    found = complaint(json.loads(reply.text), schema)
    return "right" if found is None else f"wrong: {name}: {reply.text}: {found}"


def _report(outcomes: list[str]) -> None:
    wrong = [outcome for outcome in outcomes if outcome.startswith("wrong")]
    counts = Counter(outcome.split(":")[0] for outcome in outcomes)
    print(dict(counts))
    assert wrong == []
    assert counts["right"] >= 0.9 * len(outcomes), counts


def test_replies_under_some_schemas_match(model: Model) -> None:
    """One in thirty of them, each once; `make soak` takes all."""
    chosen = list(schemas.taken().items())[::30]
    _report([_outcome(model, name, schema, seed) for seed, (name, schema) in enumerate(chosen)])


@pytest.mark.soak
def test_replies_under_all_schemas_match(model: Model) -> None:
    """Each twice: no whole reply is wrong, and nine in ten are whole."""
    chosen = list(schemas.taken().items())
    _report([_outcome(model, name, schema, seed) for seed in range(2) for name, schema in chosen])


def test_there_are_a_few_hundred_and_all_are_taken() -> None:
    """And what a random walk through each lets through matches, too."""
    everything = schemas.taken()
    assert len(everything) >= 280
    whole = 0
    for name, schema in everything.items():
        text = walk(rules_of(schema).grammar, seed=1)
        whole += text is not None
        assert text is None or complaint(json.loads(text), schema) is None, (name, text)
    assert whole >= 0.9 * len(everything)


@pytest.mark.parametrize("name", schemas.refused())
def test_refused_ones_are_named(name: str) -> None:
    """Before any generation, with the path of what is in the way."""
    schema, path = schemas.refused()[name]
    with pytest.raises(InvalidSchemaError) as caught:
        rules_of(schema)
    assert caught.value.path == path

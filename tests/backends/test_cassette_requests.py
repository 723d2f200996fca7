"""What makes a request the same one; what was not recorded is refused, with a text that helps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attrs import fields

from localllm import (
    CassetteError,
    ChatSession,
    GenerateRequest,
    Message,
    ModelConfig,
    ModelManager,
    ModelSpec,
    RecordingBackend,
    ReplayBackend,
    RequestOptions,
    TemplateError,
)
from localllm.backends.cassettes.forms import form_of, ref_form
from localllm.chat.definitions import ToolDefinition
from localllm.chat.grammar import Grammar
from tests.backends.cassettes import CallingBackend, Parrot, ask, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cassette that is not there yet, in a folder that is not there either."""
    return tmp_path / "cassettes" / "talk.json"


def test_a_request_that_was_not_recorded_ends_with_the_difference(path: Path) -> None:
    """An AssertionError that shows what has changed and what to do; other requests are still played."""
    with ModelManager(record(path, "One.", "Two.")) as models:
        model = models.load("any")
        ChatSession(model, system="Be brief.").send("Count to one.", temperature=0.5)
        ChatSession(model).send("Something else, " * 50)
    with ModelManager(ReplayBackend(path, advice="do as you like")) as models:
        model = models.load("any")
        with pytest.raises(CassetteError) as failure:
            ChatSession(model, system="Be brief.").send("Count to two.", temperature=0.7)
        assert ChatSession(model, system="Be brief.").send("Count to one.", temperature=0.5).text == "One."
    assert isinstance(failure.value, AssertionError)
    lines = str(failure.value).splitlines()
    assert str(path) in lines[0]
    assert "do as you like" in lines[0]
    assert [line for line in lines if line.startswith(("-", "+"))] == [
        '-  {"role": "user", "content": "Count to one."}',
        '+  {"role": "user", "content": "Count to two."}',
        '- "options": {"temperature": 0.5}',
        '+ "options": {"temperature": 0.7}',
    ]


@pytest.mark.parametrize(
    "changed",
    [
        GenerateRequest(messages=(Message.user("Hi!"),)),
        GenerateRequest(messages=(Message.system("Hi"), Message.user("Hi"))),
        GenerateRequest(messages=(Message.user("Hi"),), options=RequestOptions(seed=1)),
        GenerateRequest(messages=(Message.user("Hi"),), options=RequestOptions(logit_bias=((3, float("-inf")),))),
        GenerateRequest(messages=(Message.user("Hi"),), options=RequestOptions(stop="\n")),
        GenerateRequest(messages=(Message.user("Hi"),), grammar=Grammar("regex", "a+")),
        GenerateRequest(messages=(Message.user("Hi"),), tools=(ToolDefinition("clock"),)),
        GenerateRequest(messages=(Message.user("Hi"),), prefix="Well, "),
    ],
    ids=["text", "messages", "seed", "bias", "stop", "grammar", "tools", "prefix"],
)
def test_whatever_changes_the_answer_makes_another_request(path: Path, changed: GenerateRequest) -> None:
    """Each of them is refused, and is played once it was recorded itself."""
    plain = GenerateRequest(messages=(Message.user("Hi"),))
    ask(record(path, "plain"), plain)
    assert isinstance(ask(ReplayBackend(path), changed).end.error, CassetteError)
    assert ask(RecordingBackend(Parrot(), path), changed).text == "I say so."
    assert ask(ReplayBackend(path), changed).text == "I say so."


def test_what_changes_nothing_in_the_answer_is_no_part_of_a_request(path: Path) -> None:
    """A time limit, the tokens of an earlier reply, how it ended, and the folder of a model's file."""
    with ModelManager(record(path, "a", "b")) as models:
        chat = ChatSession(models.load("/home/me/models/tiny.gguf"), timeout_s=50)
        chat.send("Hi")
        chat.send("Ho")
    with ModelManager(ReplayBackend(path)) as models:
        model = models.load("C:\\models\\tiny.gguf", config=ModelConfig(threads=3))
        history = [Message.user("Hi"), Message("assistant", "a")]
        assert ChatSession(model, history=history).send("Ho").text == "b"
    known = {attribute.name for attribute in fields(GenerateRequest)}
    assert known == {"messages", "options", "purpose", "grammar", "tools", "prefix", "resume"}, "is it a part of it?"


def test_the_same_request_is_played_in_order_and_then_refused(path: Path) -> None:
    """Each reply once; with `repeat` the last one again and again."""
    with ModelManager(record(path, "first", "second")) as models:
        model = models.load("any")
        for _ in range(2):
            ChatSession(model).send("Hi")
    with ModelManager(ReplayBackend(path)) as models:
        model = models.load("any")
        assert [ChatSession(model).send("Hi").text for _ in range(2)] == ["first", "second"]
        with pytest.raises(CassetteError, match=r"was recorded 2 times .* and now it is asked once more"):
            ChatSession(model).send("Hi")
    with ModelManager(ReplayBackend(path, repeat=True)) as models:
        model = models.load("any")
        assert [ChatSession(model).send("Hi").text for _ in range(4)] == ["first", "second", "second", "second"]


def test_prompts_and_tokens_that_were_not_asked_for_are_refused(path: Path) -> None:
    """There is no model to ask; what was asked for is answered."""
    with ModelManager(record(path)) as models:
        model = models.load("any")
        tokens = model.tokenize("Hello you")
        model.detokenize(tokens)
        model.render([Message.user("Hi")])
    with ModelManager(ReplayBackend(path)) as models:
        model = models.load("any")
        assert model.detokenize(model.tokenize("Hello you")) == "Hello you"
        assert "Hi" in model.render([Message.user("Hi")]).text
        for ask in (
            lambda: model.tokenize("Hello"),
            lambda: model.detokenize(tokens[:1]),
            lambda: model.render([Message.user("Ho")]),
        ):
            with pytest.raises(CassetteError, match="was not recorded in the cassette"):
                ask()


def test_another_model_or_no_file_at_all_is_refused(path: Path) -> None:
    """The text says what there is, and how to record."""
    with ModelManager(ReplayBackend(path)) as models, pytest.raises(CassetteError, match="there is no cassette"):
        models.load("any")
    with ModelManager(record(path, "yes")) as models:
        models.load("one", config=ModelConfig(n_ctx=512))
    with ModelManager(ReplayBackend(path)) as models:
        with pytest.raises(CassetteError, match=r"recorded with 'one' \(n_ctx=512\), and 'two' was asked for"):
            models.load("two")
        with pytest.raises(CassetteError, match="and 'one' was asked for"):
            models.load("one")
        assert models.load("one", config=ModelConfig(n_ctx=512)).info.n_ctx == 512


def test_two_models_in_one_cassette_are_kept_apart(path: Path) -> None:
    """The same question to each of them, and each of them loaded twice."""

    def talk(backend: RecordingBackend | ReplayBackend) -> list[str]:
        with ModelManager(backend) as models:
            loaded = [models.load(ref) for ref in ("one", "two", "one", "two")]
            return [ChatSession(model).send("Hi").text for model in loaded]

    assert talk(record(path, *"abcd")) == talk(ReplayBackend(path)) == list("abcd")


def test_what_a_template_refuses_is_refused_again(path: Path) -> None:
    """With its own error; it was asked about and answered."""
    for backend in (RecordingBackend(CallingBackend([]), path), ReplayBackend(path)):
        with backend, ModelManager(backend) as models, pytest.raises(TemplateError, match="roles must alternate"):
            models.load("any").render([Message.user("Hi")])


@pytest.mark.parametrize(
    ("ref", "shown"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("hf:org/repo:Q4_K_M", "hf:org/repo:Q4_K_M"),
        ("/home/me/models/tiny.gguf", "tiny.gguf"),
        ("C:\\models\\tiny.gguf", "tiny.gguf"),
        ("https://me:secret@host/a/tiny.gguf?token=secret", "https://host/a/tiny.gguf"),
    ],
)
def test_a_reference_is_shown_without_what_belongs_to_one_machine(ref: str, shown: str) -> None:
    """Neither folders nor secrets."""
    assert ref_form(ModelSpec(ref=ref)) == shown


def test_the_form_of_a_request_shows_what_was_asked() -> None:
    """Lines as lines, schemas as JSON, and nothing that is at its default."""
    request = GenerateRequest(
        messages=(Message.user("a\nb"),),
        grammar=Grammar("json_schema", json.dumps({"type": "string"})),
        tools=(ToolDefinition("clock", "Tells the time.", strict=False),),
        options=RequestOptions(max_tokens=3, timeout_s=9, temperature=1.0, logit_bias={5: -1.5}),
    )
    assert form_of(request) == {
        "messages": [{"role": "user", "content": ["a\n", "b"]}],
        "tools": [
            {
                "name": "clock",
                "description": "Tells the time.",
                "parameters": {"type": "object", "properties": {}},
                "strict": False,
            }
        ],
        "grammar": {"kind": "json_schema", "source": {"type": "string"}},
        "options": {"max_tokens": 3, "temperature": 1, "logit_bias": {"5": -1.5}},
    }

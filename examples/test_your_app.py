"""How an application tests itself without a model.

`FakeBackend` says what the test scripts, and records what it was asked.

Run it with ``pytest examples/test_your_app.py``; neither llama.cpp nor a model file is needed.
"""

import pytest

from localllm import BackendError, ChatSession, FakeBackend, Model, ModelManager


def summarize(model: Model, text: str) -> str:
    """The application: what is to be tested."""
    try:
        return ChatSession(model, system="Summarize in one sentence.").send(text).text
    except BackendError:
        return "(no summary available)"


def test_a_summary_comes_from_the_model() -> None:
    """The whole set-up of a test: a script, a manager, a model."""
    backend = FakeBackend(["Rome was built slowly."])
    with ModelManager(backend) as models:
        assert summarize(models.load("any"), "Rome was not built in a day.") == "Rome was built slowly."
    assert backend.requests[0].messages[-1].content == "Rome was not built in a day."


def test_a_failure_of_the_model_is_survived() -> None:
    """An exception in the script is raised where the application would meet it."""
    with ModelManager(FakeBackend([BackendError("out of memory")])) as models:
        assert summarize(models.load("any"), "Rome was not built in a day.") == "(no summary available)"


@pytest.mark.parametrize("text", ["Rome.", "Paris."])
def test_every_text_reaches_the_model(text: str) -> None:
    """What the model was asked is there to be checked."""
    backend = FakeBackend(["A city."])
    with ModelManager(backend) as models:
        summarize(models.load("any"), text)
    assert [message.content for message in backend.requests[0].messages] == ["Summarize in one sentence.", text]

"""How an application is tested with what a real model says, and without the model.

The replies are in `examples/cassettes/test_with_cassette/`, one file a test, to be committed with the tests. They are
played by ``pytest examples/test_with_cassette.py``, which needs neither llama.cpp nor a model file, and recorded anew
by ``pytest --llm-record=all examples/test_with_cassette.py``. The fixture `llm_cassette` comes with localllm.
"""

from collections.abc import Iterator

from localllm import ChatSession, Message, Model
from localllm.testing import LLMCassette

MODEL = "smollm2-135m"
STORY = "A fox found a red kite in the snow. It ran with the kite until the wind took both of them over the hill."


def capital_of(model: Model, country: str) -> str:
    """The application: what is to be tested."""
    chat = ChatSession(model, system="You answer in one short sentence.", temperature=0, max_tokens=24)
    return chat.send(f"What is the capital of {country}?").text.strip()


def tell_on(model: Model, story: str) -> Iterator[str]:
    """More of the application: a stream, in a conversation that goes on."""
    history = [Message.user("Tell me a story."), Message("assistant", story)]
    chat = ChatSession(model, history=history, temperature=0, max_tokens=40)
    for chunk in chat.stream("And then?"):
        yield chunk.text


def test_the_capital_is_known(llm_cassette: LLMCassette) -> None:
    """A test of the prompt: change it, and the test fails until the reply to the new one is recorded."""
    answer = capital_of(llm_cassette.load(MODEL), "France")
    assert "Paris" in answer
    assert answer.count(".") == 1


def test_the_story_goes_on_in_pieces(llm_cassette: LLMCassette) -> None:
    """Streams are played word by word; what was asked is there to be checked."""
    pieces = list(tell_on(llm_cassette.load(MODEL), STORY))
    assert len(pieces) > 3
    assert llm_cassette.requests[0].messages[1].content == STORY

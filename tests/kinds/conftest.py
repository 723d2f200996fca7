"""One tiny model of each kind, in localllm and in its peer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from localllm import Model, ModelManager
from tests.kinds.peer import CHATS, CONFIG, Chat, Peer, Turn, open_peer
from tests.kinds.tiny_kinds import KINDS, Kind, write_kind


@frozen
class Tiny:
    """A tiny model of some kind.

    Args:
        kind: Its kind.
        path: Its file.
        peer: `llama_cpp.Llama` over it.
        expected: What the peer answers in both turns of each of `CHATS`.
    """

    kind: Kind
    path: Path
    peer: Peer
    expected: dict[Chat, tuple[Turn, Turn]]


@pytest.fixture(scope="package", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """A model of each kind, and what its peer says."""
    kind: Kind = request.param
    path = write_kind(tmp_path_factory.mktemp("kinds") / f"{kind}.gguf", kind)
    with open_peer(path) as peer:
        yield Tiny(kind, path, peer, {chat: peer.answers(chat) for chat in CHATS})


@pytest.fixture
def model(tiny: Tiny) -> Iterator[Model]:
    """The model in localllm, with nothing cached."""
    with ModelManager(isolation="thread") as models:
        yield models.load(tiny.path, config=CONFIG)

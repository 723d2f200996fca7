"""What a supervisor is told, by others and by its own helpers; all of it through one inbox."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from localllm.backends.worker.link import Link
from localllm.errors import LocalLLMError


@frozen
class Gone:
    """A worker has ended, and nothing more will come from it."""

    link: Link


@frozen
class Up:
    """A worker was started again, and has the model loaded."""

    link: Link


@frozen
class Down:
    """A worker could not be started again."""

    error: LocalLLMError


@frozen
class Look:
    """There is something new to look at."""


@frozen
class Stop:
    """The model is closed."""


Command: TypeAlias = Gone | Up | Down | Look | Stop

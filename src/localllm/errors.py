"""Every exception of localllm: one tree, each class also a builtin that a caller would expect.

::

    LocalLLMError (Exception)                       the root; catch this to catch everything
    ├── InvalidOptionError (ValueError)             an option is of the wrong type or out of range
    │   └── UnknownOptionError (TypeError)          no such option; the message names the nearest one
    ├── InvalidPromptError (ValueError)             a prompt, message or history that cannot be used
    │   └── PromptTypeError (TypeError)             ... because it is of the wrong type
    ├── TemplateError (ValueError)                  the chat template fails, loops or refuses the messages
    ├── ModelNotFoundError (FileNotFoundError)      the reference leads to no file
    ├── ModelLoadError (RuntimeError)               the model cannot be loaded
    │   ├── InvalidModelFileError (ValueError)      not a GGUF file, or a damaged or hostile one
    │   └── LoadCancelledError                      the caller cancelled the load
    ├── BackendUnavailableError (ImportError)       the backend's package is missing or broken
    ├── ClosedError (RuntimeError)                  use of a manager, model or session after close()
    ├── SessionBusyError (RuntimeError)             one session used for two replies at once
    ├── StreamConsumedError (RuntimeError)          chunks and events of one stream asked for at once
    ├── ConformanceError (AssertionError)           a backend breaks a rule that `check_backend` holds it to
    └── GenerationError (RuntimeError)              a reply failed; `.reply` holds what there was of it
        ├── ContextOverflowError (ValueError)       the prompt is longer than the context window
        ├── GenerationTimeoutError (TimeoutError)   the reply took longer than `timeout_s`
        ├── QueueFullError                          more requests wait than `max_queue` allows
        ├── BackendError                            the backend failed in a way of its own
        └── ScriptError (AssertionError)            a FakeBackend was asked for more than its script holds
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localllm.types import Reply


class LocalLLMError(Exception):
    """The root of every exception that localllm raises on purpose.

    Args:
        message: What happened, with which value, and what to do next.
        reply: The partial reply, when the failed call had begun one.
    """

    reply: Reply | None

    def __init__(self, message: str, *, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reply = reply


class InvalidOptionError(LocalLLMError, ValueError):
    """An option has the wrong type or is out of its range."""


class UnknownOptionError(InvalidOptionError, TypeError):
    """There is no option of this name; the message names the nearest one."""


class InvalidPromptError(LocalLLMError, ValueError):
    """A prompt, a message or a history cannot be used: empty, lone surrogates, NUL, roles out of order."""


class PromptTypeError(InvalidPromptError, TypeError):
    """A prompt, or a part of one, is of the wrong type."""


class TemplateError(LocalLLMError, ValueError):
    """The chat template does not parse, fails, takes too long, or refuses these messages."""


class ModelNotFoundError(LocalLLMError, FileNotFoundError):
    """A model reference leads to no file; the message says what was tried and what is near."""


class ModelLoadError(LocalLLMError, RuntimeError):
    """A model was found and cannot be loaded."""


class InvalidModelFileError(ModelLoadError, ValueError):
    """A file is not a GGUF model, or is truncated, damaged or hostile."""


class LoadCancelledError(ModelLoadError):
    """The caller's progress function, or the caller's task, cancelled the load."""


class BackendUnavailableError(LocalLLMError, ImportError):
    """A backend's package is not installed or does not import; the message has the command."""


class ClosedError(LocalLLMError, RuntimeError):
    """A manager, a model or a session was used after it was closed."""


class SessionBusyError(LocalLLMError, RuntimeError):
    """A session was asked for a reply while another of its replies is still running."""


class StreamConsumedError(LocalLLMError, RuntimeError):
    """A stream's chunks and its events were asked for at once."""


class ConformanceError(LocalLLMError, AssertionError):
    """A backend breaks a rule of the port; the message names the check, the rule and what was seen."""


class GenerationError(LocalLLMError, RuntimeError):
    """A reply failed. `reply` holds what there was of it, perhaps no text; None if the request never began."""


class ContextOverflowError(GenerationError, ValueError):
    """The prompt has more tokens than the context window; the message gives both counts.

    Args:
        message: What happened.
        prompt_tokens: Tokens of the rendered prompt.
        context_tokens: Tokens that the context window holds.
        reply: The partial reply, if any.
    """

    def __init__(
        self, message: str, *, prompt_tokens: int = 0, context_tokens: int = 0, reply: Reply | None = None
    ) -> None:
        super().__init__(message, reply=reply)
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class GenerationTimeoutError(GenerationError, TimeoutError):
    """The reply took longer than `timeout_s`; `reply` holds what was made until then."""


class QueueFullError(GenerationError):
    """More requests wait for the model than `ModelConfig.max_queue` allows."""


class BackendError(GenerationError):
    """The backend failed in a way of its own; the cause is chained."""


class ScriptError(GenerationError, AssertionError):
    """A FakeBackend was asked for something that its script does not hold: a mistake in a test."""

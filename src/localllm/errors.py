"""Every exception of localllm: one tree, each class also a builtin that a caller would expect.

::

    LocalLLMError (Exception)                       the root; catch this to catch everything
    ├── InvalidOptionError (ValueError)             an option is of the wrong type or out of range
    │   ├── UnknownOptionError (TypeError)          no such option; the message names the nearest one
    │   └── InvalidSchemaError                      a schema, regex or grammar is not what it should be
    │       ├── UnsupportedSchemaError              ... it asks for what cannot be enforced
    │       ├── UnsatisfiableSchemaError            ... nothing could ever match it
    │       ├── SchemaTooLargeError                 ... it is larger than the limits allow
    │       ├── SchemaTooDeepError                  ... it is nested deeper than the limits allow
    │       ├── SchemaRegexError                    ... a regular expression in it is broken or too costly
    │       └── SchemaTooCostlyError                ... it takes too long to prepare
    ├── InvalidPromptError (ValueError)             a prompt, message or history that cannot be used
    │   └── PromptTypeError (TypeError)             ... because it is of the wrong type
    ├── TemplateError (ValueError)                  the chat template fails, loops or refuses the messages
    ├── ModelNotFoundError (FileNotFoundError)      the reference leads to no file
    ├── ModelLoadError (RuntimeError)               the model cannot be loaded
    │   ├── InvalidModelFileError (ValueError)      not a GGUF file, or a damaged or hostile one
    │   ├── InsufficientMemoryError (MemoryError)   it does not fit into the memory that is free
    │   ├── LoadCancelledError                      the caller cancelled the load
    │   └── LoadTimeoutError (TimeoutError)         it took longer than `Timeouts.load_s`
    ├── StoreError (OSError)                        the store of models cannot be read or changed
    ├── SessionFileError (OSError)                  a session cannot be saved, or a saved one cannot be read
    │   └── DamagedSessionError (ValueError)        ... because its file is damaged, or is none
    ├── DownloadError (OSError)                     a model cannot be fetched
    │   ├── ConnectionLostError (ConnectionError)   no connection, or it broke as often as it was tried
    │   ├── DownloadStalledError (TimeoutError)     the server fell silent as often as it was tried
    │   ├── RateLimitedError                        the server asks to wait (429), longer or more often than we do
    │   ├── ServerError                             the server fails (5xx), or breaks the rules of HTTP or of the Hub
    │   ├── AccessDeniedError (PermissionError)     a private or gated model, and no token that opens it
    │   ├── WrongLengthError                        more or fewer bytes than were announced
    │   ├── WrongRangeError                         another part of the file than was asked for
    │   ├── ChecksumError (ValueError)              the SHA-256 is not the expected one
    │   ├── UnsafeNameError (ValueError)            a name from the network that would lead out of the store
    │   ├── DiskFullError                           no room for the file
    │   ├── OfflineError                            it would need the network, and that is turned off
    │   └── DownloadCancelledError                  the caller cancelled it
    ├── BackendUnavailableError (ImportError)       the backend's package is missing or broken
    ├── WorkerStartError (RuntimeError)             a worker process cannot be started
    │   └── WorkerStartTimeoutError (TimeoutError)  it took longer than `Timeouts.start_s`
    ├── WorkerCrashedError (RuntimeError)           a worker process ended; how, and its last words, are in the text
    │   ├── WorkerFrozenError                       it gave no sign of life, and was ended
    │   ├── WorkerMemoryError (MemoryError)         it needed more than its memory limit
    │   └── WorkerProtocolError                     it sent what is no message, and was ended
    ├── ClosedError (RuntimeError)                  use of a manager, model or session after close()
    │   └── ForkedError                             use of a model in a process made by fork()
    ├── ModelBusyError (RuntimeError)               a model with requests was to leave the memory
    ├── ToolError (RuntimeError)                    a call could not be run, or its result not be told
    │   ├── ToolRefusedError (PermissionError)      ... because the hook refused it
    │   └── ToolTimeoutError (TimeoutError)         ... because it took longer than `tool_timeout_s`
    ├── SessionBusyError (RuntimeError)             one session used for two replies at once
    ├── StreamConsumedError (RuntimeError)          chunks and events of one stream asked for at once
    ├── ConformanceError (AssertionError)           a backend breaks a rule that `check_backend` holds it to
    └── GenerationError (RuntimeError)              a reply failed; `.reply` holds what there was of it
        ├── ContextOverflowError (ValueError)       the prompt is longer than the context window
        ├── GenerationTimeoutError (TimeoutError)   the reply took longer than `timeout_s`
        │   ├── FirstTokenTimeoutError              its first token, longer than `Timeouts.first_token_s`
        │   ├── TokenTimeoutError                   a further token, longer than `Timeouts.between_tokens_s`
        │   └── ReplyTimeoutError                   all of it, longer than `Timeouts.reply_s`
        ├── TruncatedOutputError (ValueError)       cut off by `max_tokens` before it was what its schema asks for
        ├── OutputValidationError (ValueError)      a whole reply that is not what its type or schema asks for
        ├── UnsupportedError (NotImplementedError)  the backend cannot do what was asked for
        ├── QueueFullError                          more requests wait than `max_queue` allows
        ├── BackendError                            the backend failed in a way of its own
        ├── ScriptError (AssertionError)            a FakeBackend was asked for more than its script holds
        └── CassetteError (AssertionError)          a cassette is missing or damaged, or lacks what was asked
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


class InvalidSchemaError(InvalidOptionError):
    """What a reply is to look like cannot be used: a JSON Schema, a type, a regular expression or a grammar.

    Args:
        message: What is wrong.
        path: Where, as a JSON pointer into the schema, such as "/properties/age/minimum"; empty for all of it.
        reply: The partial reply, if any.
    """

    def __init__(self, message: str, *, path: str = "", reply: Reply | None = None) -> None:
        super().__init__(message, reply=reply)
        self.path = path


class UnsupportedSchemaError(InvalidSchemaError):
    """A schema asks for something that cannot be enforced while text is generated; the message names the keyword."""


class UnsatisfiableSchemaError(InvalidSchemaError):
    """Nothing could ever match the schema: it contradicts itself, or refers to itself without end."""


class SchemaTooLargeError(InvalidSchemaError):
    """A schema has more text, parts, properties or values than the limits allow."""


class SchemaTooDeepError(InvalidSchemaError):
    """A schema is nested deeper than the limits allow."""


class SchemaRegexError(InvalidSchemaError):
    """A regular expression is broken, uses what cannot be enforced (such as lookaround), or costs too much."""


class SchemaTooCostlyError(InvalidSchemaError):
    """A schema or a grammar takes more work to prepare than the limits allow."""


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


class InsufficientMemoryError(ModelLoadError, MemoryError):
    """A model does not fit into the memory that is free; the message has the figures and what would fit."""


class StoreError(LocalLLMError, OSError):
    """The store of models cannot be read or changed, or what is to be removed belongs to another program."""


class SessionFileError(LocalLLMError, OSError):
    """A session cannot be saved, or a saved one cannot be read; the message names the file."""


class DamagedSessionError(SessionFileError, ValueError):
    """The file of a saved session is damaged, cut off, of a version that is not known, or no such file at all."""


class DownloadError(LocalLLMError, OSError):
    """A model cannot be fetched. What had come of it is kept, and the next try goes on from there."""


class ConnectionLostError(DownloadError, ConnectionError):
    """There is no connection to the server, or it broke as often as it was tried."""


class DownloadStalledError(DownloadError, TimeoutError):
    """The server sent nothing for too long, as often as it was tried."""


class RateLimitedError(DownloadError):
    """The server asks to wait (429), longer or more often than we do."""


class ServerError(DownloadError):
    """The server fails (5xx), or its answer breaks the rules of HTTP or of the Hub."""


class AccessDeniedError(DownloadError, PermissionError):
    """The model is private or gated, and there is no token that opens it."""


class WrongLengthError(DownloadError):
    """The server sends more or fewer bytes than were announced."""


class WrongRangeError(DownloadError):
    """The server sends another part of the file than was asked for."""


class ChecksumError(DownloadError, ValueError):
    """The file's SHA-256 is not the expected one; what was fetched is thrown away."""


class UnsafeNameError(DownloadError, ValueError):
    """A name that came from the network would lead out of the store, or means something else to the system."""


class DiskFullError(DownloadError):
    """There is no room for the file."""


class OfflineError(DownloadError):
    """This would need the network, and offline mode is on."""


class DownloadCancelledError(DownloadError):
    """The caller cancelled the download; what had come is kept."""


class LoadTimeoutError(ModelLoadError, TimeoutError):
    """A load took longer than `Timeouts.load_s`; its worker was ended."""


class BackendUnavailableError(LocalLLMError, ImportError):
    """A backend's package is not installed or does not import; the message has the command."""


class WorkerStartError(LocalLLMError, RuntimeError):
    """A worker process cannot be started: no interpreter, a frozen application, or another version of localllm."""


class WorkerStartTimeoutError(WorkerStartError, TimeoutError):
    """A worker process was not ready within `Timeouts.start_s`; it was ended."""


class WorkerCrashedError(LocalLLMError, RuntimeError):
    """A worker process ended on its own, or had to be ended. The text names the signal, such as SIGSEGV.

    The model is loaded again, in a new worker, when it is next used.

    Args:
        message: What happened.
        exit_code: The exit code, or minus the number of the signal; None where the system does not tell.
        signal_name: The signal's name, such as "SIGSEGV"; empty if there was none.
        stderr: The last lines that the worker wrote to its stderr, the oldest first.
        reply: The partial reply, if any.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: int | None = None,
        signal_name: str = "",
        stderr: tuple[str, ...] = (),
        reply: Reply | None = None,
    ) -> None:
        super().__init__(message, reply=reply)
        self.exit_code = exit_code
        self.signal_name = signal_name
        self.stderr = stderr


class WorkerFrozenError(WorkerCrashedError):
    """A worker gave no sign of life for `Timeouts.heartbeat_s` and did not compute either; it was ended."""


class WorkerMemoryError(WorkerCrashedError, MemoryError):
    """A worker needed more memory than `memory_limit_bytes` allows."""


class WorkerProtocolError(WorkerCrashedError):
    """A worker sent what is no message, or closed its pipe; it was ended."""


class ClosedError(LocalLLMError, RuntimeError):
    """A manager, a model or a session was used after it was closed."""


class ForkedError(ClosedError):
    """A model whose worker belongs to another process was used after a fork(); load it in this one."""


class ModelBusyError(LocalLLMError, RuntimeError):
    """A model has requests, or is being loaded, and was to be unloaded."""


class ToolError(LocalLLMError, RuntimeError):
    """A call could not be run, or its result not be told: no such tool, arguments that do not fit. Never raised.

    The model gets it as the call's result, and the caller in `ToolResult.error`.
    """


class ToolRefusedError(ToolError, PermissionError):
    """The hook that is asked before calls are run refused this one."""


class ToolTimeoutError(ToolError, TimeoutError):
    """A call took longer than `tool_timeout_s`, or than what was left of `timeout_s`; it was given up."""


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


class FirstTokenTimeoutError(GenerationTimeoutError):
    """No token came within `Timeouts.first_token_s`."""


class TokenTimeoutError(GenerationTimeoutError):
    """No further token came within `Timeouts.between_tokens_s`."""


class ReplyTimeoutError(GenerationTimeoutError):
    """The whole reply took longer than `Timeouts.reply_s`."""


class TruncatedOutputError(GenerationError, ValueError):
    """A reply with a schema ended before it was whole; `reply` has its text, `partial` what could be read of it.

    Args:
        message: What happened.
        partial: What could be read of the JSON text so far; None if nothing could.
        reply: The partial reply.
    """

    def __init__(self, message: str, *, partial: object = None, reply: Reply | None = None) -> None:
        super().__init__(message, reply=reply)
        self.partial = partial


class OutputValidationError(GenerationError, ValueError):
    """A reply is whole, and is not what its type or schema asks for; a validator of the type's own says so, mostly.

    Args:
        message: What is wrong.
        path: Where in the reply, as a JSON pointer such as "/items/0/age"; empty for all of it.
        reply: The reply.
    """

    def __init__(self, message: str, *, path: str = "", reply: Reply | None = None) -> None:
        super().__init__(message, reply=reply)
        self.path = path


class UnsupportedError(GenerationError, NotImplementedError):
    """The backend cannot do what was asked for, such as hold its model to a grammar."""


class QueueFullError(GenerationError):
    """More requests wait for the model than `ModelConfig.max_queue` allows."""


class BackendError(GenerationError):
    """The backend failed in a way of its own; the cause is chained."""


class ScriptError(GenerationError, AssertionError):
    """A FakeBackend was asked for something that its script does not hold: a mistake in a test."""


class CassetteError(GenerationError, AssertionError):
    """A cassette is missing or damaged, or does not hold what was asked; the message says how to record it."""

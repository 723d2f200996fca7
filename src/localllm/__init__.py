"""An embeddable, typed SDK that gives an application a local language model.

::

    from localllm import ChatSession, ModelManager

    with ModelManager() as models:
        chat = ChatSession(models.load("smollm2-135m"), system="You are terse.")
        for chunk in chat.stream("Why is the sky blue?"):
            print(chunk.text, end="", flush=True)
        print(chat.send("And at sunset?", temperature=0.2).text)

Where things are, from what a user holds down to the values (imports go only downwards):

    session, manager, model, stream      chats, loading, the handle of a model, replies as they are made
    aio                                  the same for asyncio
    batch, batch_results                 many prompts through one model
    conversation, turn, mailbox, pump    what both kinds share: a session's state, a reply on its way, how one waits
    backends                             `base` is the port; the adapters: llamacpp, and fake for tests
    chat, models                         history and chat templates; model files and references
    engine                               continuous batching, without native code
    types, options, errors               values, settings, the exception tree
    testing                              helpers for the tests of applications and backends

Everything public is exported here. An import costs next to nothing: each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from localllm._version import __version__

if TYPE_CHECKING:
    from localllm._json import JsonValue
    from localllm.aio import AsyncChatSession, AsyncChatStream, AsyncModel, AsyncModelManager
    from localllm.aio.watch import (
        AsyncSubscription,
        AsyncWatch,
    )
    from localllm.backends.base import (
        Backend,
        GenerateHandle,
        GenerateRequest,
        LoadedModel,
        LoadProgress,
        ModelSpec,
        ProgressCallback,
        ResumePoint,
        Sink,
    )
    from localllm.backends.cassettes.recording import (
        RecordingBackend,
    )
    from localllm.backends.cassettes.replay import (
        ReplayBackend,
    )
    from localllm.backends.fake import FakeBackend, FakeReply
    from localllm.backends.worker.info import WorkerInfo
    from localllm.batch import BatchItem, BatchProgress, BatchResult
    from localllm.chat.definitions import (
        ToolDefinition,
    )
    from localllm.chat.overflow import (
        ContextWindow,
        Overflow,
        OverflowPolicy,
    )
    from localllm.chat.rendered import RenderedPrompt
    from localllm.engine.stats import ModelStats
    from localllm.errors import (
        AccessDeniedError,
        BackendError,
        BackendUnavailableError,
        CassetteError,
        ChecksumError,
        ClosedError,
        ConformanceError,
        ConnectionLostError,
        ContextOverflowError,
        DamagedSessionError,
        DiskFullError,
        DownloadCancelledError,
        DownloadError,
        DownloadStalledError,
        FirstTokenTimeoutError,
        ForkedError,
        GenerationError,
        GenerationTimeoutError,
        InsufficientMemoryError,
        InvalidModelFileError,
        InvalidOptionError,
        InvalidPromptError,
        InvalidSchemaError,
        LoadCancelledError,
        LoadTimeoutError,
        LocalLLMError,
        ModelBusyError,
        ModelLoadError,
        ModelNotFoundError,
        OfflineError,
        OutputValidationError,
        PromptTypeError,
        QueueFullError,
        RateLimitedError,
        ReplyTimeoutError,
        SchemaRegexError,
        SchemaTooCostlyError,
        SchemaTooDeepError,
        SchemaTooLargeError,
        ScriptError,
        ServerError,
        SessionBusyError,
        SessionFileError,
        StoreError,
        StreamConsumedError,
        TemplateError,
        TokenTimeoutError,
        ToolError,
        ToolRefusedError,
        ToolTimeoutError,
        TruncatedOutputError,
        UnknownOptionError,
        UnsafeNameError,
        UnsatisfiableSchemaError,
        UnsupportedError,
        UnsupportedSchemaError,
        WorkerCrashedError,
        WorkerFrozenError,
        WorkerMemoryError,
        WorkerProtocolError,
        WorkerStartError,
        WorkerStartTimeoutError,
        WrongLengthError,
        WrongRangeError,
    )
    from localllm.manager import ModelManager
    from localllm.model import Model
    from localllm.models.cancel import Cancellation
    from localllm.models.estimate import MemoryEstimate
    from localllm.models.info import ModelInfo
    from localllm.models.network import Network
    from localllm.models.progress import PullProgress
    from localllm.models.retry import RetryPolicy
    from localllm.models.store import ModelStore
    from localllm.models.stored import FileCheck, StoredFile, StoredModel, Verification
    from localllm.options import (
        GenerationOptions,
        ModelConfig,
        RequestOptions,
        Timeouts,
    )
    from localllm.output.forms import (
        OutputForm,
        output_form,
    )
    from localllm.output.partial_json import (
        PartialJson,
    )
    from localllm.residency.events import (
        Busy,
        Closed,
        Downloaded,
        Downloading,
        DownloadState,
        Failed,
        Idle,
        Loading,
        ManagerEvent,
        ManagerSnapshot,
        ModelState,
        Ready,
        Unloaded,
        Unloading,
        WorkerRestarted,
    )
    from localllm.residency.subscription import (
        Subscription,
        Watch,
    )
    from localllm.saved.state import (
        StateUse,
    )
    from localllm.session import ChatSession
    from localllm.stream import ChatStream
    from localllm.tools.approval import (
        Approval,
        AsyncOnToolCall,
        OnToolCall,
        ToolRefusal,
    )
    from localllm.tools.tool import (
        Tool,
        tool,
    )
    from localllm.types import (
        BackendEvent,
        FinishReason,
        GenerationEnded,
        Message,
        MessagesDropped,
        Prompt,
        PromptProgress,
        Reply,
        ReplyEnded,
        Role,
        Segment,
        StreamChunk,
        StreamEvent,
        TextDelta,
        Timings,
        TokenIds,
        TokenLogprob,
        ToolCall,
        ToolCallDelta,
        ToolCallEnded,
        ToolCallStarted,
        ToolEnded,
        ToolResult,
        ToolStarted,
        Usage,
    )

__all__ = [
    "AccessDeniedError",
    "Approval",
    "AsyncChatSession",
    "AsyncChatStream",
    "AsyncModel",
    "AsyncModelManager",
    "AsyncOnToolCall",
    "AsyncSubscription",
    "AsyncWatch",
    "Backend",
    "BackendError",
    "BackendEvent",
    "BackendUnavailableError",
    "BatchItem",
    "BatchProgress",
    "BatchResult",
    "Busy",
    "Cancellation",
    "CassetteError",
    "ChatSession",
    "ChatStream",
    "ChecksumError",
    "Closed",
    "ClosedError",
    "ConformanceError",
    "ConnectionLostError",
    "ContextOverflowError",
    "ContextWindow",
    "DamagedSessionError",
    "DiskFullError",
    "DownloadCancelledError",
    "DownloadError",
    "DownloadStalledError",
    "DownloadState",
    "Downloaded",
    "Downloading",
    "Failed",
    "FakeBackend",
    "FakeReply",
    "FileCheck",
    "FinishReason",
    "FirstTokenTimeoutError",
    "ForkedError",
    "GenerateHandle",
    "GenerateRequest",
    "GenerationEnded",
    "GenerationError",
    "GenerationOptions",
    "GenerationTimeoutError",
    "Idle",
    "InsufficientMemoryError",
    "InvalidModelFileError",
    "InvalidOptionError",
    "InvalidPromptError",
    "InvalidSchemaError",
    "JsonValue",
    "LoadCancelledError",
    "LoadProgress",
    "LoadTimeoutError",
    "LoadedModel",
    "Loading",
    "LocalLLMError",
    "ManagerEvent",
    "ManagerSnapshot",
    "MemoryEstimate",
    "Message",
    "MessagesDropped",
    "Model",
    "ModelBusyError",
    "ModelConfig",
    "ModelInfo",
    "ModelLoadError",
    "ModelManager",
    "ModelNotFoundError",
    "ModelSpec",
    "ModelState",
    "ModelStats",
    "ModelStore",
    "Network",
    "OfflineError",
    "OnToolCall",
    "OutputForm",
    "OutputValidationError",
    "Overflow",
    "OverflowPolicy",
    "PartialJson",
    "ProgressCallback",
    "Prompt",
    "PromptProgress",
    "PromptTypeError",
    "PullProgress",
    "QueueFullError",
    "RateLimitedError",
    "Ready",
    "RecordingBackend",
    "RenderedPrompt",
    "ReplayBackend",
    "Reply",
    "ReplyEnded",
    "ReplyTimeoutError",
    "RequestOptions",
    "ResumePoint",
    "RetryPolicy",
    "Role",
    "SchemaRegexError",
    "SchemaTooCostlyError",
    "SchemaTooDeepError",
    "SchemaTooLargeError",
    "ScriptError",
    "Segment",
    "ServerError",
    "SessionBusyError",
    "SessionFileError",
    "Sink",
    "StateUse",
    "StoreError",
    "StoredFile",
    "StoredModel",
    "StreamChunk",
    "StreamConsumedError",
    "StreamEvent",
    "Subscription",
    "TemplateError",
    "TextDelta",
    "Timeouts",
    "Timings",
    "TokenIds",
    "TokenLogprob",
    "TokenTimeoutError",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallEnded",
    "ToolCallStarted",
    "ToolDefinition",
    "ToolEnded",
    "ToolError",
    "ToolRefusal",
    "ToolRefusedError",
    "ToolResult",
    "ToolStarted",
    "ToolTimeoutError",
    "TruncatedOutputError",
    "UnknownOptionError",
    "Unloaded",
    "Unloading",
    "UnsafeNameError",
    "UnsatisfiableSchemaError",
    "UnsupportedError",
    "UnsupportedSchemaError",
    "Usage",
    "Verification",
    "Watch",
    "WorkerCrashedError",
    "WorkerFrozenError",
    "WorkerInfo",
    "WorkerMemoryError",
    "WorkerProtocolError",
    "WorkerRestarted",
    "WorkerStartError",
    "WorkerStartTimeoutError",
    "WrongLengthError",
    "WrongRangeError",
    "__version__",
    "output_form",
    "tool",
]

_NAMES_OF = {
    "localllm._json": "JsonValue",
    "localllm.aio": "AsyncChatSession AsyncChatStream AsyncModel AsyncModelManager",
    "localllm.aio.watch": "AsyncSubscription AsyncWatch",
    "localllm.backends.base": (
        "Backend GenerateHandle GenerateRequest LoadProgress LoadedModel ModelSpec ProgressCallback ResumePoint Sink"
    ),
    "localllm.backends.cassettes.recording": "RecordingBackend",
    "localllm.backends.cassettes.replay": "ReplayBackend",
    "localllm.backends.fake": "FakeBackend FakeReply",
    "localllm.backends.worker.info": "WorkerInfo",
    "localllm.batch": "BatchItem BatchProgress BatchResult",
    "localllm.chat.definitions": "ToolDefinition",
    "localllm.chat.overflow": "ContextWindow Overflow OverflowPolicy",
    "localllm.chat.rendered": "RenderedPrompt",
    "localllm.engine.stats": "ModelStats",
    "localllm.errors": (
        "AccessDeniedError BackendError BackendUnavailableError CassetteError ChecksumError ClosedError "
        "ConformanceError ConnectionLostError ContextOverflowError DamagedSessionError DiskFullError "
        "DownloadCancelledError DownloadError DownloadStalledError FirstTokenTimeoutError ForkedError GenerationError "
        "GenerationTimeoutError InsufficientMemoryError InvalidModelFileError InvalidOptionError InvalidPromptError "
        "InvalidSchemaError LoadCancelledError LoadTimeoutError LocalLLMError ModelBusyError ModelLoadError "
        "ModelNotFoundError OfflineError OutputValidationError PromptTypeError QueueFullError RateLimitedError "
        "ReplyTimeoutError SchemaRegexError SchemaTooCostlyError SchemaTooDeepError SchemaTooLargeError ScriptError "
        "ServerError SessionBusyError SessionFileError StoreError StreamConsumedError TemplateError TokenTimeoutError "
        "ToolError ToolRefusedError ToolTimeoutError TruncatedOutputError UnknownOptionError UnsafeNameError "
        "UnsatisfiableSchemaError UnsupportedError UnsupportedSchemaError WorkerCrashedError WorkerFrozenError "
        "WorkerMemoryError WorkerProtocolError WorkerStartError WorkerStartTimeoutError WrongLengthError "
        "WrongRangeError"
    ),
    "localllm.manager": "ModelManager",
    "localllm.model": "Model",
    "localllm.models.cancel": "Cancellation",
    "localllm.models.estimate": "MemoryEstimate",
    "localllm.models.info": "ModelInfo",
    "localllm.models.network": "Network",
    "localllm.models.progress": "PullProgress",
    "localllm.models.retry": "RetryPolicy",
    "localllm.models.store": "ModelStore",
    "localllm.models.stored": "FileCheck StoredFile StoredModel Verification",
    "localllm.options": "GenerationOptions ModelConfig RequestOptions Timeouts",
    "localllm.output.forms": "OutputForm output_form",
    "localllm.output.partial_json": "PartialJson",
    "localllm.residency.events": (
        "Busy Closed DownloadState Downloaded Downloading Failed Idle Loading ManagerEvent ManagerSnapshot ModelState "
        "Ready Unloaded Unloading WorkerRestarted"
    ),
    "localllm.residency.subscription": "Subscription Watch",
    "localllm.saved.state": "StateUse",
    "localllm.session": "ChatSession",
    "localllm.stream": "ChatStream",
    "localllm.tools.approval": "Approval AsyncOnToolCall OnToolCall ToolRefusal",
    "localllm.tools.tool": "Tool tool",
    "localllm.types": (
        "BackendEvent FinishReason GenerationEnded Message MessagesDropped Prompt PromptProgress Reply ReplyEnded "
        "Role Segment StreamChunk StreamEvent TextDelta Timings TokenIds TokenLogprob ToolCall ToolCallDelta "
        "ToolCallEnded ToolCallStarted ToolEnded ToolResult ToolStarted Usage"
    ),
}

_HOMES = {name: module for module, names in _NAMES_OF.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker that saw this would believe that every name exists

    def __getattr__(name):
        """Load a public name when it is first used (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})

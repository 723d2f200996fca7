"""What is measured, on whom, and what must hold.

A scenario's function takes one system through one round. It imports localllm only if it is about nothing else: the
processes of the other systems run these modules, too, and localllm's memory would count as theirs.
"""

from __future__ import annotations

from bench.scenarios.base import Scenario
from bench.scenarios.chats import concurrent, interleaved, second_turn, shared_burst, single, turns
from bench.scenarios.costs import cancel, import_time, lookup, loop_lag, memory, overhead
from bench.scenarios.schemas import schema, schemas
from bench.scenarios.sessions import drops
from bench.scenarios.starts import inspect, prompt_cache, restore
from bench.scenarios.streams import growth, interference, occupied
from bench.scenarios.transfer import download
from bench.scenarios.worker import busy_host, worker
from bench.scenarios.worker_costs import worker_costs, worker_lag
from bench.systems import BARE_LOOP, LLAMA, LOCALLLM, XLLAMACPP
from bench.table import Bound, Measure

__all__ = ["SCENARIOS", "Scenario"]

PEERS = (LOCALLLM, LLAMA, XLLAMACPP)
BELOW_1 = (Bound("<=", 1.0),)
NO_LATER_THAN_PEERS = (Bound("<=", 1.0, LLAMA), Bound("<=", 1.0, XLLAMACPP))

CHATS = (
    Scenario(
        name="single",
        run=single,
        measures=(Measure("rate", "one stream of 128 tokens", "tok/s", (Bound(">=", 0.98, BARE_LOOP),)),),
        systems=(*PEERS, BARE_LOOP),
    ),
    Scenario(
        name="concurrent",
        run=concurrent,
        measures=(
            Measure(
                "rate",
                "8 chats at once, 64 tokens each, all together",
                "tok/s",
                (Bound(">=", 0.95, BARE_LOOP), Bound(">=", 1.0, XLLAMACPP), Bound(">=", 2.5, LLAMA)),
            ),
        ),
        systems=(*PEERS, BARE_LOOP),
    ),
    Scenario(
        name="turns",
        run=turns,
        measures=(
            Measure("first", "first token of turns 2 to 8 after an 800-word system prompt", "s", NO_LATER_THAN_PEERS),
            Measure("opening", "first token of turn 1, which reads that prompt", "s"),
        ),
        systems=PEERS,
    ),
    Scenario(
        name="interleaved",
        run=interleaved,
        measures=(
            Measure(
                "first",
                "first token in two such chats, alternating",
                "s",
                (Bound("<=", 0.05, LLAMA), Bound("<=", 0.75, XLLAMACPP)),
            ),
        ),
        systems=PEERS,
    ),
    Scenario(
        name="shared burst",
        run=shared_burst,
        measures=(
            Measure(
                "wall",
                "8 new chats at once with one new 800-word system prompt, until all have answered",
                "s",
                (Bound("<=", 0.25, XLLAMACPP), Bound("<=", 1.0, LLAMA)),
            ),
        ),
        systems=PEERS,
        warm_up=False,  # it takes long, and every round reads new prompts
    ),
)

STREAMS = (
    Scenario(
        name="interference",
        run=interference,
        measures=(
            Measure(
                "longest",
                "longest gap of a stream while another chat's 800-word prompt is read",
                "ms",
                (Bound("<=", 0.05, XLLAMACPP),),
            ),
            Measure("p99", "99th percentile of those gaps", "ms", (Bound("<=", 100.0),)),
            Measure("prompt", "that prompt's first token by its first token undisturbed", "", (Bound("<=", 1.5),)),
        ),
        systems=(LOCALLLM, XLLAMACPP),
    ),
    Scenario(
        name="growth",
        run=growth,
        measures=(
            Measure(
                "longest",
                "longest gap of a stream while another chat makes the context grow",
                "ms",
                (Bound("<=", 160.0),),
            ),
            Measure("doublings", "how often the context doubled meanwhile", "", (Bound(">=", 1.0),)),
        ),
        systems=(LOCALLLM,),
        fresh=True,
    ),
    Scenario(
        name="occupied",
        run=occupied,
        measures=(
            Measure(
                "rate",
                "rate of a stream beside 8 idle chats of 1,000 tokens, by that without",
                "",
                (Bound(">=", 0.95),),
            ),
            Measure("free", "that without", "tok/s"),
            Measure("cached", "cached part of the next prompt in each idle chat, the least", "", (Bound(">=", 0.95),)),
            Measure(
                "long",
                "rate of a new chat right after one of 3,000 tokens, by that without",
                "",
                (Bound(">=", 0.95),),
            ),
        ),
        systems=(LOCALLLM,),
        fresh=True,
    ),
)

_MEMORY = (
    Measure(
        "pss",
        "memory (PSS) after one short chat, a ceiling of 8,192 tokens",
        "MiB",
        (Bound("<=", 0.6, LLAMA), Bound("<=", 0.6, XLLAMACPP)),
    ),
    Measure("anonymous", "that without mapped files", "MiB"),
)

COSTS = (
    Scenario(name="memory", run=memory, measures=_MEMORY, systems=PEERS, fresh=True),
    Scenario(name="memory, repack=False", run=memory, measures=_MEMORY, systems=PEERS, repack=False, fresh=True),
    Scenario(
        name="overhead",
        run=overhead,
        measures=(
            Measure("us_1", "Python's processor time by token, 1 stream", "µs"),
            Measure("us_8", "the same, 8 streams", "µs"),
            Measure("us_32", "the same, 32 streams", "µs"),
            Measure("growth", "the greater of the last two by the first", "", (Bound("<=", 1.0),)),
        ),
        systems=(LOCALLLM,),
        n_parallel=32,
        fresh=True,
    ),
)

BASICS = (
    Scenario(
        name="second turn",
        run=second_turn,
        measures=(
            Measure(
                "first",
                "first token of turn 2 after an 800-word system prompt",
                "s",
                (Bound("<=", 1.0, LLAMA),),
            ),
        ),
        systems=(LOCALLLM, LLAMA),
    ),
    Scenario(
        name="cancel",
        run=cancel,
        measures=(
            Measure(
                "ended", "cancel in the middle of a 1,000-token prefill, until it has ended", "s", (Bound("<=", 0.5),)
            ),
        ),
        systems=(LOCALLLM,),
    ),
    Scenario(
        name="loop lag",
        run=loop_lag,
        measures=(
            Measure(
                "lag",
                "p99 lag of an asyncio loop beside a streaming model, less that beside one in another process",
                "ms",
                (Bound("<=", 10.0),),
            ),
        ),
        systems=(LOCALLLM,),
        warm_up=False,  # it loads the model anew
    ),
    Scenario(
        name="lookup",
        run=lookup,
        measures=(
            Measure(
                "alike", "a prompt looked up among 64 chats of 4,000 tokens that differ at their end", "ms", BELOW_1
            ),
            Measure("unlike", "the same, chats that differ from the first token on", "ms", BELOW_1),
        ),
        systems=(LOCALLLM,),
    ),
    Scenario(
        name="import",
        run=import_time,
        measures=(Measure("import", "`import localllm` over an empty start", "ms", (Bound("<=", 60.0),)),),
        systems=(LOCALLLM,),
    ),
)

STARTS = (
    Scenario(
        name="prompt cache",
        run=prompt_cache,
        measures=(
            Measure(
                "found",
                "first token of the first chat in a new process, an 800-word system prompt on disk",
                "s",
            ),
            Measure("read", "the same without it on disk", "s"),
            Measure("ratio", "the former by the latter", "", (Bound("<=", 0.15),)),
            Measure("size", "what is on disk", "MiB"),
        ),
        systems=(LOCALLLM,),
        warm_up=False,  # each figure has a process of its own
    ),
    Scenario(
        name="inspect",
        run=inspect,
        measures=(
            Measure("command", "`localllm inspect` as a whole command", "s", (Bound("<=", 0.3),)),
            Measure("header", "processor time to read and check the header", "ms", (Bound("<=", 60.0),)),
        ),
        systems=(LOCALLLM,),
    ),
)

SESSIONS = (
    Scenario(
        name="restore",
        run=restore,
        measures=(
            Measure("restored", "first token of a session of 4,000 tokens, restored in a new process", "s"),
            Measure("read", "the same, read again", "s"),
            Measure("ratio", "the former by the latter", "", (Bound("<=", 0.15),)),
            Measure("size", "its file", "MiB"),
        ),
        systems=(LOCALLLM,),
        warm_up=False,  # each figure has a process of its own
    ),
    Scenario(
        name="drops",
        run=drops,
        measures=(
            Measure(
                "text",
                "50 turns through 1,024 tokens: first token of turns after the first drop that drop nothing "
                "themselves, by that of as long a prompt",
                "",
                (Bound("<=", 1.3),),
            ),
            Measure("text_drop", "that of turns that drop something", ""),
            Measure("text_often", "how many of the turns do", ""),
            Measure("calls", "the first with a call and its result in each turn", "", (Bound("<=", 1.3),)),
            Measure("calls_drop", "the second, so", ""),
            Measure("calls_often", "the third, so", ""),
        ),
        systems=(LOCALLLM,),
        warm_up=False,  # it loads models of its own
    ),
)

WORKERS = (
    Scenario(
        name="Worker",
        run=worker,
        measures=(
            Measure("decode", "rate of one stream in a worker, by that in a thread", "", (Bound(">=", 0.98),)),
            Measure("first", "its first token with a cached prompt, later by", "ms", (Bound("<=", 3.0),)),
            Measure("eight", "8 chats at once, all together, by that in a thread", "", (Bound(">=", 0.98),)),
            Measure("eight_first", "the median of their first tokens, by that in a thread", ""),
        ),
        systems=(LOCALLLM,),
        n_ctx=2048,
    ),
    Scenario(
        name="Worker, busy host",
        run=busy_host,
        measures=(
            Measure(
                "worker",
                "rate of a stream of one computing thread while the application computes in Python, by that without",
                "",
                (Bound(">=", 0.9),),
            ),
            Measure("thread", "the same in a thread", ""),
        ),
        systems=(LOCALLLM,),
        n_ctx=2048,
        threads=1,
    ),
    Scenario(
        name="Worker, costs",
        run=worker_costs,
        measures=(
            Measure("start", "start of a worker: process, imports, handshake", "s", (Bound("<=", 0.5),)),
            Measure("protocol", "a chunk into a frame of 8 and out of it", "µs"),
            Measure("way", "a chunk from its making to its reader", "µs"),
            Measure("way_thread", "the same in a thread", "µs"),
            Measure("memory", "memory (PSS) beyond that of a thread", "MiB"),
        ),
        systems=(LOCALLLM,),
        warm_up=False,
    ),
    Scenario(
        name="Worker, loop lag",
        run=worker_lag,
        measures=(
            Measure(
                "lag",
                "p99 lag of an asyncio loop that reads 8 streams of a worker, less that beside an equal load elsewhere",
                "ms",
                (Bound("<=", 10.0),),
            ),
        ),
        systems=(LOCALLLM,),
        warm_up=False,
    ),
)

STRUCTURED = (
    Scenario(
        name="schema",
        run=schema,
        measures=(
            Measure("rate", "rate of a stream with a JSON Schema, by that without", "", (Bound(">=", 0.95),)),
            Measure("held", "the former", "tok/s"),
            Measure("first", "its first token with a cached prompt, later by", "ms", (Bound("<=", 10.0),)),
        ),
        systems=(LOCALLLM, LLAMA),
        n_ctx=2048,
    ),
    Scenario(
        name="schemas",
        run=schemas,
        measures=(
            Measure("eight", "8 streams of different schemas, all together, by 8 without", "", (Bound(">=", 0.9),)),
        ),
        systems=(LOCALLLM, LLAMA),
        n_ctx=2048,
    ),
)

TRANSFERS = (
    Scenario(
        name="download",
        run=download,
        measures=(
            Measure("rate", "a file of 1 GiB over loopback, checked as it comes", "MB/s"),
            Measure("curl", "the same by curl, which checks nothing", "MB/s"),
            Measure("ratio", "the former by the latter", "", (Bound(">=", 0.8),)),
            Measure("whole", "checked and brought to the disk, as it always is", "MB/s"),
            Measure("curl_synced", "by curl, brought to the disk", "MB/s"),
            Measure("whole_ratio", "the former by the latter", "", (Bound(">=", 0.8),)),
            Measure("cpu", "processor time for it, of which SHA-256 takes about 0.6 s", "s"),
            Measure("curl_cpu", "curl's", "s"),
            Measure("memory", "memory that it grows by meanwhile, at its peak", "MiB", (Bound("<=", 64.0),)),
        ),
        systems=(LOCALLLM,),
    ),
)

SCENARIOS = (*CHATS, *STREAMS, *COSTS, *BASICS, *STARTS, *SESSIONS, *STRUCTURED, *WORKERS, *TRANSFERS)

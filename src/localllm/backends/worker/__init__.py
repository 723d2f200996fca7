"""The worker: any backend in a process of its own, which may crash without taking the application with it.

Reading order, from the wire up. What both processes share:

    frames, messages, codec, failures    bytes to frames, frames to messages; errors as values
    pipes                                reading and writing file descriptors

What runs in the child, started with `python -m localllm.backends.worker`:

    __main__, child                      takes the pipes, reads messages, watches for the parent's end
    outbox                               messages on their way out, merged while the pipe is slow
    host                                 runs the backend and answers messages
    limits                               the memory limit, and memory in use

What runs in the parent:

    process                              starts and ends the child, keeps the last lines of its stderr
    channel                              messages in, messages out
    link                                 one child's life: handshake, load, questions, events
    liveness, deadlines, restarts        what counts as frozen, as too late, and when to start again; pure
    obituary                             how a child ended, in words
    request                              one request on its way, perhaps over several lives of the worker
    trials                               which request crashes its worker; pure decisions
    commands, starter, supervisor        keeps a model's worker going
    info, model, backend                 the port's adapter around all of it

docs/worker.md describes the behaviour.
"""

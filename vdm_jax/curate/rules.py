"""Which clips are good enough: rules over the table of all clips, in the words of its columns.

A rule is an expression such as `motion >= percentile(motion, 25) and text < 0.07`: columns,
numbers, arithmetic, comparisons, and, or, not, and `percentile(column, q)` over the clips that the
rules before it left. Nothing else is understood, so a rule cannot do anything but decide.
"""

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vdm_jax.core.refusal import Refusal

ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
PERCENTILE = "percentile"
KEPT, COPY, SAME, UNTOLD = "kept", "copy", "same", "untold"
"""Verdicts that no rule gives: a clip stays, is a copy, shows the same, lacks a number."""

Columns = Mapping[str, Float[np.ndarray, " n"]]


@dataclass(frozen=True)
class Rule:
    """reason: the word for a clip of which `keep` is not true."""

    reason: str
    keep: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise Refusal(f"a rule needs a reason, a word for what it rejects: {self.keep}")

    def check(self, known: Set[str]) -> None:
        """Refuse what is no rule, or reads a column that no stage fills."""
        unknown = sorted(_names(self._parsed()) - set(known))
        if unknown:
            raise Refusal(
                f"the rule {self.reason!r} asks for {', '.join(unknown)}, which no stage tells; "
                f"there are {', '.join(sorted(known))}"
            )
        self.holds({name: np.zeros(2) for name in known})

    def holds(self, columns: Columns) -> Bool[np.ndarray, " n"]:
        """For which of the clips it holds; where a number is missing (NaN) it does not."""
        count = len(next(iter(columns.values())))
        try:
            value = _truth(_value(self._parsed(), columns, self), self)
        except (ValueError, TypeError, RecursionError) as error:
            raise Refusal(
                f"the rule {self.reason!r} cannot be computed: {self.keep[:80]} ({error})"
            ) from error
        return np.broadcast_to(value, count)

    def _parsed(self) -> ast.expr:
        try:
            return ast.parse(self.keep, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise Refusal(f"the rule {self.reason!r} is no expression: {self.keep[:80]}") from error


def judged(
    rules: Sequence[Rule], columns: Columns, reasons: Sequence[str]
) -> Iterator[tuple[Rule, list[int]]]:
    """Each rule with the clips that it rejects, of those left.

    reasons: of each clip, why it is gone already; empty where it is not.
    """
    left = np.array([not reason for reason in reasons], bool)
    for rule in rules:
        among = left.nonzero()[0]
        if len(among):
            kept = rule.holds({name: column[among] for name, column in columns.items()})
            left[among[~kept]] = False
            yield rule, among[~kept].tolist()
        else:
            yield rule, []


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} - {PERCENTILE}


def _truth(value: Any, rule: Rule) -> Bool[np.ndarray, "..."]:
    if np.asarray(value).dtype != bool:
        raise Refusal(f"the rule {rule.reason!r} is neither true nor false: {rule.keep[:80]}")
    return np.asarray(value)


def _value(node: ast.expr, columns: Columns, rule: Rule) -> Any:
    value = lambda each: _value(each, columns, rule)  # noqa: E731
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name) if name in columns:
            return columns[name]
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            with np.errstate(all="ignore"):
                return ARITHMETIC[type(op)](value(node.left), value(node.right))
        case ast.UnaryOp(op=ast.USub()):
            return -value(node.operand)
        case ast.UnaryOp(op=ast.Not()):
            return ~_truth(value(node.operand), rule)
        case ast.BoolOp(op=op, values=parts):
            several = [_truth(value(part), rule) for part in parts]
            return reduce(np.logical_and if isinstance(op, ast.And) else np.logical_or, several)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(
            type(op) in COMPARISONS for op in ops
        ):
            sides = [value(side) for side in (left, *others)]
            pairs = zip(ops, sides, sides[1:], strict=False)
            return reduce(np.logical_and, [COMPARISONS[type(op)](a, b) for op, a, b in pairs])
        case ast.Call(func=ast.Name(id=name), args=[column, share], keywords=[]) if (
            name == PERCENTILE
        ):
            numbers = np.asarray(value(column), float)
            return float(np.nanpercentile(numbers, value(share))) if len(numbers) else 0.0
    raise Refusal(f"the rule {rule.reason!r} says more than a rule may: {ast.unparse(node)}")

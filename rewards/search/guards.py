"""Guards of a candidate's arithmetic: `*`, `**` and `%` become calls that take numbers only, and keep them small.

Otherwise `[0] * n`, `9 ** 9 ** 9` and `"%999999999d" % n` would fill the memory, or take minutes inside one
instruction.
"""

import ast
import math
from collections.abc import Callable

_LARGEST = 1 << 63  # larger whole numbers become floats


def times(a: float, b: float) -> float:
    """Multiply two numbers."""
    _check_numbers("*", a, b)
    result = a * b
    return result if isinstance(result, float) or abs(result) < _LARGEST else float(result)


def power(a: float, b: float) -> float:
    """Raise a number to a power, as a float."""
    _check_numbers("**", a, b)
    return math.pow(a, b)


def modulo(a: float, b: float) -> float:
    """Remainder of two numbers."""
    _check_numbers("%", a, b)
    return a % b


FUNCTIONS: dict[str, Callable[[float, float], float]] = {"_times": times, "_power": power, "_modulo": modulo}
_NAMES: dict[type[ast.operator], str] = {ast.Mult: "_times", ast.Pow: "_power", ast.Mod: "_modulo"}


def guarded(tree: ast.Module) -> ast.Module:
    """Replace the three operators in a syntax tree; lines stay as they are."""
    _Guards().visit(tree)  # in place
    return ast.fix_missing_locations(tree)


class _Guards(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if type(node.op) not in _NAMES:
            return node
        return _call(node, node.op, node.left, node.right)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        if type(node.op) not in _NAMES or not isinstance(node.target, ast.Name):
            return node
        before = ast.copy_location(ast.Name(node.target.id, ast.Load()), node)
        return ast.copy_location(ast.Assign([node.target], _call(node, node.op, before, node.value)), node)


def _call(node: ast.AST, operator: ast.operator, left: ast.expr, right: ast.expr) -> ast.Call:
    return ast.copy_location(ast.Call(ast.Name(_NAMES[type(operator)], ast.Load()), [left, right], []), node)


def _check_numbers(operator: str, *values: float) -> None:
    for value in values:
        if not isinstance(value, int | float):
            raise TypeError(f"{operator} takes numbers, not a {type(value).__name__}")

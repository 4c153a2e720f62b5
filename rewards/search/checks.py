"""Checks of a candidate's syntax tree against the language's allow-lists: what is not listed is refused."""

import ast
import math
from collections.abc import Iterable

from rewards.search import language

_WORDS = {
    ast.Import: "no import; math and the helpers are there without one",
    ast.ImportFrom: "no import; math and the helpers are there without one",
    ast.While: "no while; use for, over a list or a range",
    ast.Lambda: "no lambda; write a function at the top of the module",
    ast.JoinedStr: "no f-string; a term's name is a plain text",
    ast.NamedExpr: "no :=; assign in a line of its own",
    ast.Starred: "no *star; name the values",
    ast.Try: "no try; test for what may be missing, as in `if most == 0`",
    ast.ClassDef: "no class; functions suffice",
}
_CONSUMERS = ("all", "any", "dict", "list", "max", "mean", "min", "set", "sorted", "sum", "tuple")
_RESERVED = {*language.BUILTINS, *language.HELPERS, "math"}
_TYPES = {"bool", "dict", "float", "int", "list", "set", "str", "tuple"}
_GUARDED = (ast.Mult, ast.Pow, ast.Mod)  # computed by `guards.py`


class Refusal(Exception):
    """Something that the language of candidates does not have, and its line."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.line, self.problem = line, problem


def check_module(tree: ast.Module) -> None:
    """Refuse a module that is not a candidate: nodes, names, calls, attributes and sizes."""
    _check_nodes(tree)
    constants: set[str] = set()
    functions: dict[str, ast.FunctionDef] = {}
    for place, statement in enumerate(tree.body):
        if isinstance(statement, ast.FunctionDef):
            _check_new_name(statement, statement.name, constants | functions.keys())
            _Function(statement, constants, functions).check()
            functions[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            constants.add(_constant(statement, constants | functions.keys()))
        elif place or not _is_text(statement):
            raise Refusal(statement.lineno, "at the top of the module only named numbers and functions")
    if len(functions) > language.MAX_FUNCTIONS:
        raise Refusal(1, f"{len(functions)} functions; at most {language.MAX_FUNCTIONS}")
    if "reward" not in functions:
        raise Refusal(1, "no function reward(answer, truth)")
    signature = functions["reward"].args
    if [one.arg for one in signature.args] != ["answer", "truth"] or signature.defaults:
        raise Refusal(functions["reward"].lineno, "it must be reward(answer, truth)")


def number_of(node: ast.expr | None) -> float | None:
    """The number that an expression states, or None if it is anything but a number with or without a sign."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign, node = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool) or not isinstance(node.value, int | float):
        return None
    return sign * node.value


def _check_nodes(tree: ast.Module) -> None:
    """Check types of nodes, their number and depth, literals, and the form of every name."""
    waiting: list[tuple[ast.AST, int, int]] = [(tree, 0, 1)]
    count = 0
    docstrings = {id(body[0].value) for body in _bodies(tree) if body and isinstance(body[0], ast.Expr)}
    while waiting:
        node, depth, line = waiting.pop()
        line = getattr(node, "lineno", line)
        count += 1
        if count > language.MAX_NODES or depth > language.MAX_DEPTH:
            raise Refusal(line, "too large a module" if count > language.MAX_NODES else "too deeply nested")
        if not isinstance(node, language.NODES):
            raise Refusal(line, _WORDS.get(type(node), f"no {type(node).__name__} in the language of rewards"))
        if isinstance(node, ast.Constant):
            _check_constant(node, language.MAX_DOCSTRING if id(node) in docstrings else language.MAX_TEXT)
        for name in _names_of(node):
            if not name.isascii() or (name.startswith("_") and name != "_"):
                raise Refusal(line, f"the name {name[:40]!r}; use letters, and no underscore in front")
        waiting += [(child, depth + 1, line) for child in ast.iter_child_nodes(node)]


def _bodies(tree: ast.Module) -> Iterable[list[ast.stmt]]:
    return [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]


def _names_of(node: ast.AST) -> list[str]:
    found = [getattr(node, key, None) for key in ("id", "arg", "attr", "name")]
    return [name for name in found if isinstance(name, str)]


def _check_constant(node: ast.Constant, longest: int) -> None:
    value = node.value
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int | float):
        if not abs(value) <= language.MAX_NUMBER:
            raise Refusal(node.lineno, f"a number beyond {language.MAX_NUMBER:g}; write math.inf for infinity")
    elif isinstance(value, str):
        if len(value) > longest:
            raise Refusal(node.lineno, f"a text of {len(value):,} characters; at most {longest:,}")
    else:
        raise Refusal(node.lineno, f"no {type(value).__name__} in the language of rewards")


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _check_new_name(node: ast.stmt | ast.expr | ast.arg, name: str, taken: Iterable[str] = ()) -> None:
    if name in _RESERVED:
        raise Refusal(node.lineno, f"{name!r} is a helper; choose another name")
    if name in taken:
        raise Refusal(node.lineno, f"{name!r} is defined twice")


def _constant(statement: ast.Assign | ast.AnnAssign, taken: Iterable[str]) -> str:
    """Check a named number at the top of the module; returns its name."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    if len(targets) != 1 or not isinstance(targets[0], ast.Name) or number_of(statement.value) is None:
        raise Refusal(statement.lineno, "at the top of the module a name is given to a number, as in REACH = 10.0")
    if isinstance(statement, ast.AnnAssign):
        _check_annotation(statement.annotation)
    _check_new_name(statement, targets[0].id, taken)
    return targets[0].id


def _check_annotation(node: ast.expr | None) -> None:
    """Check that a type is made of the plain ones: float, list[float], dict[str, float]."""
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return
    if isinstance(node, ast.Name) and node.id in _TYPES:
        return
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in _TYPES:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            _check_annotation(part)
        return
    raise Refusal(node.lineno, f"a type must be made of {', '.join(sorted(_TYPES))}")


class _Function:
    """Checks of one function, which may call those defined above it."""

    def __init__(self, node: ast.FunctionDef, constants: set[str], functions: dict[str, ast.FunctionDef]) -> None:
        self.node, self.constants, self.functions = node, constants, functions
        stored = (n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        self.local = {one.arg for one in node.args.args} | {name.id for name in stored}

    def check(self) -> None:
        """Refuse what the language does not have."""
        self._check_signature()
        for node in [n for n in ast.walk(self.node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]:
            _check_new_name(node, node.id, [*self.functions, self.node.name, *self.constants])
        for place, statement in enumerate(self.node.body):
            if not (place == 0 and _is_text(statement)):
                self._statement(statement)

    def _check_signature(self) -> None:
        arguments, line = self.node.args, self.node.lineno
        if self.node.decorator_list:
            raise Refusal(line, "no decorators")
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
            raise Refusal(line, "only plain parameters")
        if len(arguments.args) > language.MAX_PARAMETERS:
            raise Refusal(line, f"{len(arguments.args)} parameters; at most {language.MAX_PARAMETERS}")
        for default in arguments.defaults:
            if number_of(default) is None and not isinstance(default, ast.Constant):
                raise Refusal(default.lineno, "a default must be a number or a text")
        for one in arguments.args:
            _check_new_name(one, one.arg, [*self.functions, self.node.name, *self.constants])
            _check_annotation(one.annotation)
        _check_annotation(self.node.returns)

    def _statement(self, node: ast.stmt, loops: int = 0) -> None:
        loops += isinstance(node, ast.For)
        if loops > language.MAX_LOOPS:
            raise Refusal(node.lineno, f"more than {language.MAX_LOOPS} loops inside each other")
        if isinstance(node, ast.FunctionDef):
            raise Refusal(node.lineno, "no function inside another; write it at the top of the module")
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call):
            raise Refusal(node.lineno, "a value that nothing is done with")
        for target in _targets(node):
            self._target(target)
        if isinstance(node, ast.AugAssign) and isinstance(node.op, _GUARDED) and not isinstance(node.target, ast.Name):
            raise Refusal(node.lineno, "write it as an assignment: a[i] = a[i] * b")
        if isinstance(node, ast.AnnAssign):
            _check_annotation(node.annotation)
        for name, value in ast.iter_fields(node):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.stmt):
                    self._statement(part, loops)
                elif isinstance(part, ast.expr) and name not in ("target", "targets", "annotation"):
                    self._expression(part)

    def _target(self, node: ast.expr) -> None:
        """Check what is assigned to: names, and places of a list or dict that has a name."""
        if isinstance(node, ast.Tuple | ast.List):
            for part in node.elts:
                self._target(part)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in self.local:
            self._expression(node.slice)
        elif not isinstance(node, ast.Name):
            raise Refusal(node.lineno, "only names, and places of named lists and dicts, are assigned to")

    def _expression(self, node: ast.expr, consumed: bool = False) -> None:
        """Check an expression; `consumed`: it is the argument of a function that uses up a generator."""
        if isinstance(node, ast.GeneratorExp) and not consumed:
            raise Refusal(node.lineno, f"a generator stands only in a call of {', '.join(_CONSUMERS)}")
        if isinstance(node, ast.Name):
            self._name(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Attribute):
            self._attribute(node)
        elif isinstance(node, ast.Dict) and None in node.keys:
            raise Refusal(node.lineno, "no **; name the values")
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.comprehension):
                    self._comprehension(child)
                elif isinstance(child, ast.expr):
                    self._expression(child)

    def _comprehension(self, node: ast.comprehension) -> None:
        if node.is_async:
            raise Refusal(node.target.lineno, "no async")
        self._target(node.target)
        for part in (node.iter, *node.ifs):
            self._expression(part)

    def _name(self, node: ast.Name) -> None:
        if node.id in self.local or node.id in self.constants:
            return
        if node.id in _RESERVED or node.id in self.functions or node.id == self.node.name:
            raise Refusal(node.lineno, f"{node.id!r} can only be called by its name, and never by itself")
        raise Refusal(node.lineno, f"there is no {node.id[:40]!r} here{_hint(node.id)}")

    def _call(self, node: ast.Call) -> None:
        function = node.func
        keywords: Iterable[str] = language.KEYWORDS
        consumes = False
        if isinstance(function, ast.Name) and function.id in self.functions:
            keywords = {one.arg for one in self.functions[function.id].args.args}
        elif isinstance(function, ast.Name) and function.id in (*language.BUILTINS, *language.HELPERS):
            consumes = function.id in _CONSUMERS
        elif isinstance(function, ast.Attribute) and _is_math(function):
            if function.attr not in language.MATH_FUNCTIONS:
                raise Refusal(node.lineno, f"no math.{function.attr[:40]}; there are {_of(language.MATH_FUNCTIONS)}")
        elif isinstance(function, ast.Attribute):
            self._expression(function.value)
            if function.attr not in language.METHODS:
                raise Refusal(node.lineno, f"no method {function.attr[:40]!r}; there are {_of(language.METHODS)}")
        else:
            raise Refusal(node.lineno, self._not_callable(function))
        for keyword in node.keywords:
            if keyword.arg is None:
                raise Refusal(node.lineno, "no **; name the arguments")
            if keyword.arg not in keywords:
                raise Refusal(node.lineno, f"no argument {keyword.arg[:40]!r} here")
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self._expression(part, consumed=consumes)

    def _not_callable(self, function: ast.expr) -> str:
        if isinstance(function, ast.Name):
            own = function.id == self.node.name
            return f"{function.id[:40]!r} cannot be called here" + (": no recursion" if own else _hint(function.id))
        return "only functions that have a name can be called"

    def _attribute(self, node: ast.Attribute) -> None:
        if _is_math(node):
            if node.attr not in language.MATH_NUMBERS:
                raise Refusal(
                    node.lineno, f"math.{node.attr[:40]} is no number; there are {_of(language.MATH_NUMBERS)}"
                )
            return
        self._expression(node.value)
        if node.attr not in language.FIELDS:
            raise Refusal(node.lineno, f"no field {node.attr[:40]!r}; there are {_of(language.FIELDS)}")


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For) else []


def _is_math(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "math"


def _of(names: Iterable[str]) -> str:
    return ", ".join(names)


def _hint(name: str) -> str:
    if name in ("np", "numpy"):
        return "; use math, mean, clip and the builtins instead of numpy"
    if name in dir(math):
        return f"; write math.{name}" if name in (*language.MATH_FUNCTIONS, *language.MATH_NUMBERS) else ""
    return ""

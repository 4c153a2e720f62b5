"""The language of candidates: Python's syntax with an allow-list of names, and its description for a prompt.

`candidate.py` holds every source to these lists. Nothing here is imported but by name, as the sandbox's worker reads
this module too.
"""

import ast

MAX_SOURCE = 16_000  # characters
MAX_NODES = 4_000
MAX_DEPTH = 40  # of the syntax tree
MAX_LOOPS = 8  # inside each other; Python itself stops at 20
MAX_TEXT = 200  # characters of a text
MAX_DOCSTRING = 4_000
MAX_NUMBER = 1e9
MAX_FUNCTIONS = 20
MAX_PARAMETERS = 8
MAX_RANGE = 10_000
MAX_TERMS = 12
MAX_VALUE = 10.0  # of a term, either way

BUILTINS = (
    *("abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "len", "list", "max", "min"),
    *("range", "round", "set", "sorted", "sum", "tuple", "zip"),
)
KEYWORDS = ("default", "reverse", "strict")  # that calls of builtins may name
MATH_FUNCTIONS = (
    *("atan", "atan2", "ceil", "cos", "dist", "erf", "exp", "expm1", "fabs", "floor", "hypot", "isclose", "isfinite"),
    *("isnan", "log", "log10", "log1p", "log2", "sin", "sqrt", "tanh"),
)
MATH_NUMBERS = ("e", "inf", "pi")
HELPERS = {
    "iou": "iou(box, box) -> overlap of two boxes over their union, 0 to 1",
    "l1": "l1(box, box) -> mean of the four absolute differences, in pixels",
    "inside": "inside(point, box) -> True if the point lies in the box",
    "distance": "distance(point, point) -> pixels",
    "box_area": "box_area(box) -> square pixels",
    "matched": "matched(answer.instances, truth) -> [(instance, object), ...], one to one, the most overlapping boxes "
    "first; those that overlap nothing are left out",
    "mask_iou": "mask_iou(answer, truth) -> IoU of all drawn masks together with all true ones, 0 to 1; 1 if both are "
    "empty, 0 for an unreadable answer",
    "pair_mask_iou": "pair_mask_iou(instance, object) -> IoU of their masks, 0 to 1",
    "mean": "mean(numbers) -> their mean; 0 if there are none",
    "clip": "clip(x, low, high) -> x, no smaller than low and no larger than high",
    "ratio": "ratio(a, b) -> the smaller over the larger, 0 to 1; 1 if both are 0",
}
MASK_HELPERS = ("mask_iou", "pair_mask_iou")  # with these a candidate needs the segmenter's masks
FIELDS = {
    "readable": "answer.readable: bool; False if the text is no well-formed answer (then there are no instances)",
    "error": "answer.error: None, or what makes it unreadable, such as 'not_json' or 'no_answer'",
    "warnings": "answer.warnings: texts, one for each object that was left out, such as ('bad_box',)",
    "think": "answer.think: text of the think-chain, such as 'The mug stands left of the bowl.'",
    "words": "answer.words: int; number of words in the think-chain",
    "instances": "answer.instances: objects that the answer names, each with .box, .points and .area; may be empty, "
    "which in a readable answer says: nothing there",
    "box": ".box: (x0, y0, x1, y1), such as (210.0, 96.0, 405.0, 310.5); None if only words were given",
    "points": ".points: ((x, y), ...), such as ((300.0, 201.0),); may be empty",
    "area": ".area: share of the image that it covers, 0 to 1: its mask in a reward that calls mask_iou or "
    "pair_mask_iou, its box in others",
}
METHODS = ("append", "count", "endswith", "get", "items", "keys", "lower", "split", "startswith", "strip", "values")

NODES = (
    *(ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Expr, ast.Pass),
    *(ast.Assign, ast.AugAssign, ast.AnnAssign, ast.If, ast.For, ast.Break, ast.Continue),
    *(ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.IfExp),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn),
    *(ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Slice, ast.Constant, ast.Name, ast.Load, ast.Store),
    *(ast.List, ast.Tuple, ast.Dict, ast.Set),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension),
)

EXAMPLE = '''"""Boxes and their number, with an edge over answers that cannot be read."""

REACH = 10.0  # pixels at which a box is worth one half
BOXES = 3.0


def closeness(pixels):
    return 1.0 / (1.0 + pixels / REACH)


def reward(answer, truth):
    """Close boxes, the right number of them, and a readable answer."""
    if not answer.readable:
        return {"readable": 0.0, "boxes": 0.0, "count": 0.0}
    most = max(len(answer.instances), len(truth))
    if most == 0:
        return {"readable": 1.0, "boxes": BOXES, "count": 1.0}
    pairs = matched(answer.instances, truth)
    near = sum(iou(i.box, o.box) * closeness(l1(i.box, o.box)) for i, o in pairs) / most
    return {"readable": 1.0, "boxes": BOXES * near, "count": len(pairs) / most}
'''


def describe() -> str:
    """Describe the language to whoever writes a candidate: signature, fields, helpers, rules, and an example."""
    return f"""A reward is a small Python module with a function

    def reward(answer, truth):
        return {{"name_of_a_term": value, ...}}

which scores one answer about one image. It returns 1 to {MAX_TERMS} named terms; the reward is their sum. Each is a
finite number from {-MAX_VALUE:g} to {MAX_VALUE:g}.

`answer` is what the policy wrote; `truth` holds the true objects, each with .box, .points and .area. An empty `truth`
means that nothing is there, and the right answer is then readable and without instances. All coordinates are pixels of
an image of 840x840.

Fields:
{_lines(FIELDS)}

Helpers, which need no import:
{_lines(HELPERS)}
  - {", ".join(BUILTINS)}
  - of math, without an import: {", ".join(f"math.{name}" for name in (*MATH_FUNCTIONS, *MATH_NUMBERS))}
  - methods of texts, lists and dicts: {", ".join(METHODS)}

Rules:
  - At the top of the module: a docstring, named numbers (temperatures, weights), small functions, `reward` the last.
    A function calls only functions above it.
  - No imports, classes, lambdas, nested functions, decorators, while, try, with, raise, assert, global, yield,
    f-strings, := or *stars. No names or attributes that begin with an underscore. Functions are called by name, never
    passed on. A variable is not called like a helper. Of a range at most {MAX_RANGE:,} numbers.
  - `*`, `**` and `%` take numbers only.
  - The same answer always earns the same: there are no random numbers, no clock, no files.

Example:

{EXAMPLE}"""


def _lines(texts: dict[str, str]) -> str:
    return "\n".join(f"  - {text}" for text in texts.values())

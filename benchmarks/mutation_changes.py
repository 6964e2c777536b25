"""Small changes of a Python module, one at a time, as slips of the hand make them.

`changes` lists them in the order of the source, and `changed_source` applies one. Left alone is
what no number depends on: docstrings, annotations, decorators, the text of errors and logs.
"""

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A small change.

    Attributes:
      line: where it is, from 1.
      function: name of the function around it; empty for the module's own lines.
      kind: what sort of change it is, e.g. "comparison".
      before, after: the expression around it, without and with the change.
    """

    line: int
    function: str
    kind: str
    before: str
    after: str

    def text(self) -> str:
        """Both expressions on a line."""
        return f"{self.before}  ->  {self.after}"


class Edit(NamedTuple):
    """What has to be set in a tree: a field of a node, or one item of a list there."""

    kind: str
    owner: ast.AST
    field: str
    place: int | None
    new: Any


COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_PAIRS = (
    ("min", "max"),
    ("minimum", "maximum"),
    ("argmin", "argmax"),
    ("any", "all"),
    ("floor", "ceil"),
    ("startswith", "endswith"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("ljust", "rjust"),
    ("last_mean", "best_mean"),
    ("last_std", "best_std"),
)
NAMES = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
# Calls that work without their last positional argument.
_OPTIONAL = ("arange", "array", "asarray", "get", "max", "min", "next", "range", "round", "split")
# Not numbers: guards of a programmer's slip, the locale's encoding, layouts in memory.
_KEYWORDS_LEFT = ("strict", "encoding", "errors", "axis")
_DIGITS = re.compile(r",?\.\d[fge%]")  # of a printed number
_SILENT_CALLS = ("print", "warning", "info", "debug", "assert_rank", "assert_equal", "assert_shape")
_SILENT_NAMES = ("__all__", "VERSION", "_VERSIONS", "notes")
_WORDS = (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.DictComp)


def changes(source: str) -> list[Change]:
    """All small changes of a module, in an order that depends on its source alone."""
    tree = ast.parse(source)
    return [change for change, _ in _walk(tree)]


def changed_source(source: str, number: int) -> str:
    """The module with one change.

    Args:
      source: of the module.
      number: place of the change in `changes(source)`.
    """
    tree = ast.parse(source)
    for i, (_, edit) in enumerate(_walk(tree)):
        if i == number:
            _set(edit)
            return plain(tree)
    raise IndexError(f"there is no change {number}")


def plain(tree: ast.Module | str) -> str:
    """Source without comments and layout, as `changed_source` gives it, of a tree or a source."""
    return ast.unparse(ast.parse(tree) if isinstance(tree, str) else tree) + "\n"


def _set(edit: Edit) -> Any:
    """Makes an edit; returns the value before."""
    if edit.place is None:
        before = getattr(edit.owner, edit.field)
        setattr(edit.owner, edit.field, edit.new)
    else:
        items = getattr(edit.owner, edit.field)
        before = items[edit.place]
        items[edit.place] = edit.new
    return before


def _walk(tree: ast.Module) -> Iterator[tuple[Change, Edit]]:
    """Every change with its edit, which is made and taken back before it is yielded."""
    for node, above, function in _nodes(tree, (), ""):
        for edit in _edits(node, above):
            shown = _around(edit.owner, (*above, node))
            before = _shown(shown)
            line = getattr(node, "lineno", 0) or getattr(above[-1], "lineno", 0)
            old = _set(edit)
            after = _shown(shown)
            _set(edit._replace(new=old))
            if after != before:
                yield Change(line, function, edit.kind, before, after), edit


def _nodes(
    node: ast.AST, above: tuple[ast.AST, ...], function: str
) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...], str]]:
    """Nodes that may change, each with those around it and the name of its function."""
    if _is_left(node):
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    yield node, above, function
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _nodes(child, (*above, node), function)


def _is_left(node: ast.AST) -> bool:
    """Whether nothing below this node is changed."""
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.Assert | ast.Delete):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "shown":
        return True  # how much of somebody's text a sentence quotes
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = getattr(called, "attr", getattr(called, "id", ""))
        of = getattr(getattr(called, "value", None), "id", "")
        return name in _SILENT_CALLS or of in _SILENT_NAMES
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(getattr(t, "id", "") in _SILENT_NAMES for t in targets)
    return False


def _around(owner: ast.AST, above: tuple[ast.AST, ...]) -> ast.AST:
    """The smallest expression or statement that tells what an edit changes."""
    chain = [*above[: above.index(owner) + 1]] if owner in above else [*above]
    for i in range(len(chain) - 1, 0, -1):
        node, parent = chain[i], chain[i - 1]
        called = isinstance(parent, ast.Call) and parent.func is node
        part = isinstance(node, ast.Constant | ast.Slice | ast.FormattedValue)
        part = part or (isinstance(parent, ast.FormattedValue) and parent.format_spec is node)
        if isinstance(node, ast.stmt) or (isinstance(node, ast.expr) and not called and not part):
            return node
    return chain[0]


def _shown(node: ast.AST) -> str:
    """Source of a node on a line; of a statement with a body only its head."""
    if isinstance(node, ast.If | ast.While):
        return f"if {ast.unparse(node.test)}"
    if isinstance(node, ast.FunctionDef):
        return f"def {node.name}({ast.unparse(node.args)})"
    if isinstance(node, ast.For):
        return f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
    return " ".join(ast.unparse(node).split())


def _edits(node: ast.AST, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    """The changes of one node."""
    for kind, edits in _KINDS:
        if isinstance(node, kind):
            yield from edits(node, above)


def _of_comparison(node: ast.Compare, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    for i, operator in enumerate(node.ops):
        for new in COMPARISONS[type(operator)]:
            yield Edit("comparison", node, "ops", i, new())


def _of_arithmetic(node: ast.BinOp | ast.AugAssign, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    if type(node.op) in ARITHMETIC and not any(_is_words(side) for side in sides):
        yield Edit("arithmetic", node, "op", None, ARITHMETIC[type(node.op)]())


def _is_words(node: ast.AST) -> bool:
    """Whether + or | of this node could only raise a TypeError after a change."""
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return text or isinstance(node, _WORDS)


def _of_constant(node: ast.Constant, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    value, parent = node.value, above[-1]
    if isinstance(value, bool):
        if not (isinstance(parent, ast.keyword) and parent.arg in _KEYWORDS_LEFT):
            yield Edit("constant", node, "value", None, not value)
    elif isinstance(value, int):
        if isinstance(parent, ast.keyword) and parent.arg == "axis":
            yield Edit("axis", node, "value", None, 0 if value else 1)
        else:
            yield Edit("constant", node, "value", None, value + 1)
            yield Edit("constant", node, "value", None, value - 1)
    elif isinstance(value, float):
        for new in (2 * value, value / 2) if value else (1.0,):
            yield Edit("constant", node, "value", None, new)
    elif any(isinstance(n, ast.FormattedValue) for n in above) and _DIGITS.fullmatch(str(value)):
        start, digits, letter = str(value)[:-2], int(str(value)[-2]), str(value)[-1]
        yield Edit("digits", node, "value", None, f"{start}{digits + 1}{letter}")


def _of_condition(node: ast.BoolOp, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield Edit("condition", node, "op", None, swapped)
    for i in range(len(node.values)):
        rest = [value for k, value in enumerate(node.values) if k != i]
        yield Edit("condition", node, "values", None, rest)


def _of_sign(node: ast.UnaryOp, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    place = _place(node, above[-1])
    if place and not isinstance(node.op, ast.UAdd):
        yield Edit("sign", above[-1], *place, node.operand)


def _of_name(node: ast.Name | ast.Attribute, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    field = "id" if isinstance(node, ast.Name) else "attr"
    if isinstance(node.ctx, ast.Load) and getattr(node, field) in NAMES:
        called = isinstance(above[-1], ast.Call) and above[-1].func is node
        if called or "_" in getattr(node, field):
            yield Edit("name", node, field, None, NAMES[getattr(node, field)])


def _of_call(node: ast.Call, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if not name[:1].isupper():  # a class would only miss a field
        for i, keyword in enumerate(node.keywords):
            if keyword.arg and keyword.arg not in _KEYWORDS_LEFT:
                rest = [k for j, k in enumerate(node.keywords) if j != i]
                yield Edit("argument", node, "keywords", None, rest)
    if name in _OPTIONAL and len(node.args) > 1:
        yield Edit("argument", node, "args", None, node.args[:-1])
    if name == "sorted" and not any(k.arg == "reverse" for k in node.keywords):
        turned = ast.keyword("reverse", ast.Constant(True))
        yield Edit("order", node, "keywords", None, [*node.keywords, turned])
    place = _place(node, above[-1])
    if name == "argsort" and place:
        turned_over = ast.Slice(None, None, ast.UnaryOp(ast.USub(), ast.Constant(1)))
        yield Edit("order", above[-1], *place, ast.Subscript(node, turned_over, ast.Load()))


def _of_slice(node: ast.Slice, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    for field in ("lower", "upper"):
        if getattr(node, field) is not None:
            yield Edit("slice", node, field, None, None)


def _of_test(node: ast.If | ast.IfExp, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    # Where there is a comparison or a `not`, its own changes turn it round.
    if not isinstance(node.test, ast.Compare | ast.UnaryOp):
        yield Edit("negation", node, "test", None, ast.UnaryOp(ast.Not(), node.test))


def _of_return(node: ast.Return, above: tuple[ast.AST, ...]) -> Iterator[Edit]:
    around = next((n for n in reversed(above) if isinstance(n, ast.FunctionDef)), None)
    kind = ast.unparse(around.returns) if around is not None and around.returns else ""
    if node.value is None or isinstance(node.value, ast.Constant):
        return
    if kind == "bool":
        yield Edit("negation", node, "value", None, ast.UnaryOp(ast.Not(), node.value))
    elif kind in ("int", "float", "np.ndarray", "chex.Array"):
        yield Edit("negation", node, "value", None, ast.UnaryOp(ast.USub(), node.value))


def _place(node: ast.AST, parent: ast.AST) -> tuple[str, int | None] | None:
    """Field and index of a node in its parent."""
    for field, value in ast.iter_fields(parent):
        if value is node:
            return field, None
        if isinstance(value, list) and any(item is node for item in value):
            return field, next(i for i, item in enumerate(value) if item is node)
    return None


_KINDS: tuple[tuple[Any, Callable[..., Iterator[Edit]]], ...] = (
    (ast.Compare, _of_comparison),
    (ast.BinOp | ast.AugAssign, _of_arithmetic),
    (ast.Constant, _of_constant),
    (ast.BoolOp, _of_condition),
    (ast.UnaryOp, _of_sign),
    (ast.Name | ast.Attribute, _of_name),
    (ast.Call, _of_call),
    (ast.Slice, _of_slice),
    (ast.If | ast.IfExp, _of_test),
    (ast.Return, _of_return),
)

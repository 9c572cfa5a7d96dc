"""What the text of a test tells before it runs, or when it cannot be judged.

Standard library only; it runs inside the jail beside `judge.py`. A test's text is the user's: what
is read here no program has a part in.
"""

import ast
import builtins
import sys


def called_names(nodes):
    calls = [x for x in nodes if isinstance(x, ast.Call) and isinstance(x.func, ast.Name)]
    return {x.func.id for x in calls}


def module_names(nodes):
    """Modules of the standard library that a test uses, as in `math.pi`, also without an import."""
    owners = [x.value for x in nodes if isinstance(x, ast.Attribute)]
    owners = {x.id for x in owners if isinstance(x, ast.Name)} - called_names(nodes)
    return owners & sys.stdlib_module_names


def bound_names(nodes):
    """Names that a test itself gives a meaning to."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)
    bound = {x.id for x in nodes if isinstance(x, ast.Name) and not isinstance(x.ctx, ast.Load)}
    bound |= {x.arg for x in nodes if isinstance(x, ast.arg)}
    bound |= {x.name for x in nodes if isinstance(x, kinds)}
    return bound | {x.asname or x.name for x in nodes if isinstance(x, ast.alias)}


def looks_beyond_values(tree):
    """Whether a test looks at more of a program than its values: output, input, files, names, code.

    The program's process has its own of these.
    """
    nodes = list(ast.walk(tree))
    names = _names(nodes) - bound_names(nodes)
    attributes = {x.attr for x in nodes if isinstance(x, ast.Attribute)}
    imports = [x for x in nodes if isinstance(x, (ast.Import, ast.ImportFrom))]
    imported = {name.name for x in imports for name in x.names}
    owned = _STREAMS | _CODE
    return not (_WORLD.isdisjoint(names | imported) and owned.isdisjoint(attributes | imported))


_CODE = {"GeneratorType", "CoroutineType", "FunctionType", "isgenerator", "isgeneratorfunction"}
_CODE |= {"iscoroutinefunction", "isfunction", "signature", "getsource", "getfullargspec"}
_STREAMS = {"stdin", "stdout", "stderr", "input", "redirect_stdout", "redirect_stderr", "patch"}
_WORLD = {"open", "globals", "locals", "capsys", "monkeypatch", "tempfile"}


def gives_back(tree):
    """Whether a test hands to the program what may be the program's own choice: `f(f(1) * 9)`.

    Told by names: one that the test does not make is the program's, and one that is made of such a
    name, or changed or looped over by it, may hold anything.
    """
    nodes = list(ast.walk(tree))
    known = vars(builtins).keys() | module_names(nodes) | bound_names(nodes)
    theirs = _names(nodes) - known
    theirs = theirs or called_names(nodes)  # a program's function may be named like one of Python's
    functions = {}
    for x in nodes:
        if isinstance(x, (ast.FunctionDef, ast.AsyncFunctionDef)):
            functions.setdefault(x.name, []).append(x)
    pairs = [pair for node in nodes for pair in _made(node, functions)]
    pairs = [(set(names), _names_below(sources)) for names, sources in pairs]
    size = 0
    while len(theirs) > size:
        size = len(theirs)
        for names, sources in pairs:
            if not theirs.isdisjoint(sources):
                theirs |= names
    given = [(_names_below([to]), _names_below(what)) for x in nodes for to, what in _given(x)]
    return any(not (theirs.isdisjoint(to) or theirs.isdisjoint(what)) for to, what in given)


def _names(nodes):
    return {x.id for x in nodes if isinstance(x, ast.Name)}


def _names_below(parts):
    return _names([x for part in parts for x in ast.walk(part)])


def _made(node, functions):
    """(names, what they are made of, changed or chosen by), as far as this node tells."""
    match node:
        case ast.Assign(targets=targets, value=value):
            yield [name for x in targets for name in _owners(x)], [value]
        case ast.AugAssign() | ast.AnnAssign() | ast.NamedExpr():
            yield _owners(node.target), [node.value] if node.value else []
        case ast.comprehension():
            yield _owners(node.target), [node.iter]
        case ast.withitem(optional_vars=ast.expr()):
            yield _owners(node.optional_vars), [node.context_expr]
        case ast.For() | ast.AsyncFor() | ast.While() | ast.If() | ast.Match():
            head = next(getattr(node, x) for x in ("iter", "test", "subject") if hasattr(node, x))
            yield _stored(node), [head]
        case ast.Try() | ast.TryStar():
            yield [x.name for x in node.handlers if x.name], node.body
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            ends = (ast.Return, ast.Yield, ast.YieldFrom)
            yield [node.name], [x for x in ast.walk(node) if isinstance(x, ends)]
        case ast.Call():
            yield from _passed(node, functions)
        case ast.Expr(value=ast.Call(func=func, args=args)):  # for what it does to one of these
            method = [func] if isinstance(func, ast.Attribute) else []
            yield [name for x in (*method, *args) for name in _owners(x)], args


def _passed(call, functions):
    """The parameters of functions that get these arguments, by their names alone."""
    given = [*call.args, *call.keywords]
    name = getattr(call.func, "id", getattr(call.func, "attr", None))
    lambdas = [x for x in given if isinstance(x, ast.Lambda)]
    for function in (*functions.get(name, ()), *lambdas):
        yield [x.arg for x in ast.walk(function.args) if isinstance(x, ast.arg)], given


def _given(node):
    """(to whom, what) where a test may hand something to a thing of the program's."""
    match node:
        case ast.Call():
            yield node.func, [*node.args, *node.keywords]
        case ast.BinOp():
            yield node.left, [node.right]
            yield node.right, [node.left]
        case ast.Subscript():
            yield node.value, [node.slice]
        case ast.AugAssign():
            yield node.target, [node.value]
        case ast.Assign(targets=targets):
            places = [x for x in targets if isinstance(x, (ast.Attribute, ast.Subscript))]
            yield from ((x.value, [node.value]) for x in places)
        case ast.Compare(ops=[ast.In() | ast.NotIn()]):
            yield node.comparators[0], [node.left]


def _owners(target):
    """Names that a target binds, or whose thing it changes: a of `a.b[i]`."""
    while isinstance(target, (ast.Attribute, ast.Subscript, ast.Starred)):
        target = target.value
    if isinstance(target, (ast.Tuple, ast.List)):
        return [name for x in target.elts for name in _owners(x)]
    return [target.id] if isinstance(target, ast.Name) else []


def _stored(node):
    """Names that are given a meaning somewhere below, or changed there."""
    below = list(ast.walk(node))
    calls = [x.value for x in below if isinstance(x, ast.Expr) and isinstance(x.value, ast.Call)]
    changed = [x.func.value for x in calls if isinstance(x.func, ast.Attribute)]
    return bound_names(below) | {name for x in changed for name in _owners(x)}

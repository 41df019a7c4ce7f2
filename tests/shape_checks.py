"""Every annotation of some packages, shapes included, checked when a function of theirs is called.

As jaxtyping's own import hook does it, and as strict where it looks, but for a third of the time: that hook binds the
arguments of every call, and has them checked before the call and once more after it. In each test the first calls of a
function are all checked, and of those that follow, which have the shapes of the first as a rule, one in a few: checking
all would be a third of what the tests take.
"""

import ast
import dataclasses
import functools
import inspect
import sys
from importlib.machinery import PathFinder, SourceFileLoader

from beartype import BeartypeConf, beartype
from jaxtyping import config, jaxtyped

CONFIGURATION = BeartypeConf(is_pep484_tower=True)  # an int may stand for a float
NAME = "__checked__"  # what `checked` is called in the modules
# Calls of a function in a test: all of the first are checked, then one in so many. A prime, so that where two places
# call it by turns, or every step of a scan does, it is not always the same of them.
FIRST, THEN = 8, 17

_calls = {}  # id of a function's code -> that code, which keeps its id its own, and its calls since the last `begin`


def begin():
    """A test begins, or a part of it with other shapes: the first calls in it are checked again."""
    _calls.clear()


def _due(code):
    """Whether this call of a function is one to check."""
    count = _calls.get(id(code), (code, 0))[1] + 1
    _calls[id(code)] = (code, count)
    return count <= FIRST or count % THEN == 0


def install(*packages):
    """Check all modules of these packages that are imported from now on."""
    sys.meta_path.insert(0, _Finder(packages))


def checked(made):
    """A function, or a dataclass, that checks what it is given and what it returns; one call shares its axes' sizes."""
    if inspect.isclass(made):
        if dataclasses.is_dataclass(made) and "__init__" in vars(made):
            made.__init__ = checked(made.__init__)
        return made
    if not made.__annotations__:
        return made

    @functools.cache
    def checking():
        """Made when it is first called: what an annotation in quotes names is there by then, if it ever is."""
        hints = made.__annotations__.items()
        made.__annotations__ = {name: hint for name, hint in hints if _exists(hint, made.__globals__)}
        return beartype(conf=CONFIGURATION)(made)

    @functools.wraps(made)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        if config.jaxtyping_disable or not _due(made.__code__):
            return made(*args, **kwargs)
        with jaxtyped("context"):
            return checking()(*args, **kwargs)

    return call


def _exists(hint, names):
    """Whether an annotation can be checked: one in quotes may be imported for type checkers alone."""
    if isinstance(hint, str):
        try:
            eval(hint, names)
        except NameError:
            return False
    return True


class _Decorate(ast.NodeTransformer):
    """Puts `checked` below the other decorators of a function, and above those of a class."""

    def visit_FunctionDef(self, node):
        return self._decorated(node, len(node.decorator_list))

    def visit_ClassDef(self, node):
        return self._decorated(node, 0)

    def _decorated(self, node, place):
        if not any(isinstance(one, ast.Name) and one.id == "no_type_check" for one in node.decorator_list):
            self.generic_visit(node)
            node.decorator_list.insert(place, ast.copy_location(ast.Name(NAME, ast.Load()), node))
        return node


class _Loader(SourceFileLoader):
    def get_code(self, fullname):
        """Compile from source, so that no bytecode with the checks in it is stored."""
        tree = _Decorate().visit(ast.parse(self.get_data(self.path), self.path))
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module):
        setattr(module, NAME, checked)
        super().exec_module(module)


class _Finder:
    def __init__(self, packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec

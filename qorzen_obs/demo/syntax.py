"""Parsing Python source and measuring its syntax tree: the demo's work for processors, done in worker processes.

Parsing is not safe in threads: CPython counts the depth of the tree that it builds in one place for all of them, and
fails when two build at once (https://github.com/python/cpython/issues/106905).
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from dataclasses import dataclass

from qorzen_obs.current import CURRENT
from qorzen_obs.options import task


@dataclass(frozen=True, slots=True)
class Measure:
    """What the syntax tree of one file is like."""

    lines: int
    nodes: int
    depth: int  #: nodes on the longest way from the root to a leaf
    functions: int
    longest_function: tuple[int, str]  #: its lines and its name


@task(engine="process")
def parse(content: bytes, shown: str) -> Measure:
    """Decode and parse the content of the file `shown`, and measure its syntax tree.

    Raises:
        SyntaxError, UnicodeDecodeError, ValueError, RecursionError: it is not Python of this version.
    """
    text = importlib.util.decode_source(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what old code is warned of is not the subject
        tree = ast.parse(text, shown)
    return measure(tree, lines=text.count("\n") + (not text.endswith("\n") and bool(text)))


def measure(tree: ast.Module, lines: int) -> Measure:
    """Measure a syntax tree, level by level; a function is as long as its lines from `def` to the end.

    >>> measure(ast.parse("def f():\\n    return 1\\n"), lines=2)
    Measure(lines=2, nodes=5, depth=4, functions=1, longest_function=(2, 'f'))
    """
    this = CURRENT.get()
    nodes = depth = functions = 0
    longest = (0, "")
    level: list[ast.AST] = [tree]
    while level:
        if this is not None:
            this.raise_if_cancelled()
        nodes += len(level)
        depth += 1
        below: list[ast.AST] = []
        for node in level:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions += 1
                longest = max(longest, ((node.end_lineno or node.lineno) - node.lineno + 1, node.name))
            for value in vars(node).values():
                if isinstance(value, ast.AST):
                    below.append(value)
                elif type(value) is list:
                    below += [child for child in value if isinstance(child, ast.AST)]
        level = below
    return Measure(lines, nodes, depth, functions, longest)

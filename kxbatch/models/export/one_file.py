"""Several modules of kxbatch as the text of one that needs none of them.

The text is the modules' own, in the order in which they need each other: their imports of one another are dropped, others
come once at the top, and their docstrings become comments. So there is one implementation, whoever runs it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files

PACKAGE = "kxbatch"


@dataclass
class _Joined:
    imports: set[str] = field(default_factory=set)  # one name each
    names: dict[str, str] = field(default_factory=dict)  # bound at the top, to what they mean
    sections: dict[str, str] = field(default_factory=dict)


def one_file(module: str, beside: Mapping[str, str]) -> str:
    """A module and all modules of kxbatch that it needs, as one.

    Args:
        module: full name.
        beside: modules that are shipped as files of their own, to the name of that file, such as `.configuration`.

    Returns:
        Python source.

    Raises:
        ValueError: a name means two things in two modules, or one imports in a way that cannot be taken apart.
    """
    joined = _Joined()
    _add(joined, module, beside)
    imports = sorted(joined.imports, key=lambda line: ("__future__" not in line, line))
    return "\n\n\n".join(["\n".join(imports), *joined.sections.values()]) + "\n"


def _add(joined: _Joined, module: str, beside: Mapping[str, str]) -> None:
    text = files(PACKAGE).joinpath(*module.split(".")[1:-1], f"{module.rpartition('.')[2]}.py").read_text("utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            _add_ours(joined, module, node, beside)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            _add_imports(joined, node)
        elif not _is_all(node) and not _is_text(node):
            for defined in _defined(node):
                _claim(joined, defined, module)
            continue
        lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)  # type: ignore[operator]  # parsed nodes end
    title = [f"# --- {module} ---", *(f"# {line}".rstrip() for line in (ast.get_docstring(tree) or "").splitlines())]
    joined.sections[module] = "\n".join(title) + "\n\n" + "\n".join(lines).strip()


def _add_ours(joined: _Joined, module: str, node: ast.ImportFrom, beside: Mapping[str, str]) -> None:
    name = str(node.module)
    if any(alias.asname or alias.name == "*" for alias in node.names):
        raise ValueError(f"{module}: 'import as' and 'import *' of modules of {PACKAGE} cannot be joined")
    if name in beside:
        _add_imports(joined, ast.ImportFrom(beside[name].lstrip("."), node.names, level=1))
    elif name not in joined.sections:
        _add(joined, name, beside)


def _add_imports(joined: _Joined, node: ast.Import | ast.ImportFrom) -> None:
    for alias in node.names:
        single = (
            ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level)
        )
        joined.imports.add(ast.unparse(single))
        _claim(joined, alias.asname or alias.name, ast.unparse(single))


def _claim(joined: _Joined, name: str, meaning: str) -> None:
    if joined.names.setdefault(name, meaning) != meaning:
        raise ValueError(f"{name!r} is of '{joined.names[name]}' and of '{meaning}'; rename one")


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return [name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]


def _is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and _defined(node) == ["__all__"]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)

"""Writes the table of tests in docs/rules.md: `python docs/rules.py`."""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from schemas.config import RunConfig
from schemas.pairs import DefectCode

PAGE = Path(__file__).with_name("rules.md")
TESTS = Path(__file__).parents[1] / "tests" / "data"
BEGIN = "<!-- Written by docs/rules.py from tests/data. -->"

OPTIONS = {name for section in RunConfig().model_dump().values() for name in section}
"""A text that is one of them, such as `too_long`, may mean the option and not the code."""
BY_TEXT = {code.value: code for code in DefectCode if code.value not in OPTIONS}
BY_NAME = {code.name: code for code in DefectCode}


def count_tests(files: Iterable[Path]) -> Counter[DefectCode]:
    """How many tests name each code.

    A case of a parametrised test that names a code is a test of it; a code that only the test
    itself names counts once, however many cases there are. Codes that a helper names do not count.
    """
    counted: Counter[DefectCode] = Counter()
    for file in files:
        module = ast.parse(file.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value
            for node in module.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for test in _functions(module):
            body = set().union(*(_named(node, constants) for node in test.body))
            cases = Counter(
                code for case in _cases(test, constants) for code in _named(case, constants)
            )
            counted += cases | Counter(body)
    return counted


def _functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def _cases(test: ast.FunctionDef, constants: dict[str, ast.expr]) -> Iterator[ast.expr]:
    """The values of all parametrisations, as they stand in the file."""
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("parametrize"):
            values = decorator.args[1]
            if isinstance(values, ast.Name):
                values = constants.get(values.id, values)
            if isinstance(values, ast.Dict):
                yield from filter(None, values.keys)
            elif isinstance(values, ast.List | ast.Tuple | ast.Set):
                yield from values.elts


def _named(node: ast.AST, constants: dict[str, ast.expr]) -> set[DefectCode]:
    """Codes in the node: `DefectCode.NAME`, a constant that is one, or the code as a whole text."""
    found: set[DefectCode | None] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(constants.get(part.id), ast.Attribute):
            found |= _named(constants[part.id], {})
        elif isinstance(part, ast.Attribute) and ast.unparse(part.value) == "DefectCode":
            found.add(BY_NAME.get(part.attr))
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.add(BY_TEXT.get(part.value))
    return {code for code in found if code is not None}


def table() -> str:
    """The lines below `BEGIN`: each code in the order of `DefectCode`, with its number of tests."""
    counted = count_tests(sorted(TESTS.rglob("test_*.py")))
    rows = (f"| `{code.value}` | {counted[code]} |\n" for code in DefectCode)
    return "| code | tests |\n|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    PAGE.write_text(f"{text}{BEGIN}\n\n{table()}", encoding="utf-8")

"""A layer uses only those below it (ARCHITECTURE.md): crates by Cargo, the package by its imports."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "bireme"

# Which of our crates each crate may use.
CRATES = {
    "bireme-shm": set(),
    "bireme-sched": set(),
    "bireme-runtime": {"bireme-shm", "bireme-sched"},
    "bireme-python": {"bireme-shm", "bireme-sched", "bireme-runtime"},
}
# Who alone may use a dependency (tests and benches aside), because it is that layer's business.
OWNERS = {
    "libc": {"bireme-shm"},
    "rustix": {"bireme-shm"},
    "pyo3": {"bireme-python"},
}
TEST_MODULE = re.compile(r"^#\[cfg\((?:test|all\(test)", re.MULTILINE)

# The faces: what users call. Nothing below them may know them.
FACES = {"pool", "_default", "_shared_pool", "_calls"}
# What runs inside a worker: it starts fast and knows no face.
INSIDE = {"worker", "_template", "serialize", "errors"}
LAZY_ALLOWED: set[tuple[str, str]] = set()


@pytest.fixture(scope="module")
def packages():
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {package["name"]: package for package in json.loads(done.stdout)["packages"]}


def test_every_crate_has_its_place(packages):
    assert set(packages) == set(CRATES)


def test_crates_use_only_lower_ones(packages):
    for name, package in packages.items():
        ours = {uses["name"] for uses in package["dependencies"] if uses["name"] in CRATES}
        assert ours <= CRATES[name], name


def test_dependencies_stay_with_their_owner(packages):
    for name, package in packages.items():
        normal = {uses["name"] for uses in package["dependencies"] if uses["kind"] is None}
        for dependency in normal & set(OWNERS):
            assert name in OWNERS[dependency], f"{name} uses {dependency}"


def test_scheduler_is_pure():
    """No I/O and no clock in the state machines: what they do replays from a list of events."""
    impure = re.compile(
        r"\bstd::(?:fs|io|net|os|process|time::(?:Instant|SystemTime)|env)\b|\bunsafe\b"
    )
    for source in sorted((ROOT / "crates" / "sched" / "src").rglob("*.rs")):
        code = strip_comments(TEST_MODULE.split(source.read_text(encoding="utf-8"))[0])
        code = code.replace("unsafe_code", "")
        assert not impure.search(code), f"{source.relative_to(ROOT)}: {impure.search(code)}"


def strip_comments(code: str) -> str:
    return re.sub(r"//.*", "", code)


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, type-checking blocks left out."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            found |= {module} if module != "bireme" else {f"bireme.{a.name}" for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(PACKAGE.parent).with_suffix("").parts
            base = ".".join([*here[: -node.level], *(node.module or "").split(".")]).rstrip(".")
            found |= {base} if node.module else {f"{base}.{a.name}" for a in node.names}
        pending += ast.iter_child_nodes(node)
    ours = {name.removeprefix("bireme.") for name in found if name.startswith("bireme.")}
    return {name for name in ours if module_file(name)}


def module_file(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.fixture(scope="module")
def graph():
    edges = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        edges[name] = imports_of(path)
    assert edges, "no Python source found"
    return edges


def test_python_imports_have_no_cycle(graph):
    """Imports inside functions count: a lazy cycle is a cycle."""
    inner = {name: uses for name, uses in graph.items() if name != "__init__"}
    try:
        list(graphlib.TopologicalSorter(inner).static_order())
    except graphlib.CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(error.args[1]))


def test_nothing_below_knows_a_face(graph):
    for name, uses in graph.items():
        if name == "__init__" or name.split(".")[0] in FACES:
            continue
        faces = {used for used in uses if used.split(".")[0] in FACES}
        assert not {(name, face) for face in faces} - LAZY_ALLOWED, f"{name} imports {faces}"


def test_inside_of_a_worker_needs_no_face(graph):
    """Follow the imports from what a worker runs: none of them may lead to a face."""
    reached = {name for name in graph if name.split(".")[0] in INSIDE}
    pending = list(reached)
    while pending:
        for used in graph.get(pending.pop(), ()):
            if used not in reached:
                reached.add(used)
                pending.append(used)
    assert not {name for name in reached if name.split(".")[0] in FACES}

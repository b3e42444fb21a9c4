"""The rules that keep the house sound: one-way imports, names, sizes, and a wheel that holds one top-level name."""

import ast
import importlib
import itertools
import pkgutil
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"hat": "hat", "train": "hat.train", "export": "hat.export", "serve": "hat.serve", "demo": "hat.demo"}
MAY_IMPORT = {"hat": set(), "train": {"hat"}, "export": {"hat"}, "serve": {"hat"}, "demo": {"hat", "serve", "export"}}
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def folder_of(module):
    """The top-level folder that an absolute import of ours names, or None."""
    for folder, package in FOLDERS.items():
        if folder != "hat" and (module == package or module.startswith(f"{package}.")):
            return folder
    return "hat" if module == "hat" or module.startswith("hat.") else None


def imports_of(path):
    """(module, line) of every absolute import in a file, `from hat import train` counted as `hat.train`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def breaches(path, folder):
    """Imports of a file that the house forbids."""
    for module, line in imports_of(path):
        target = folder_of(module)
        if module.split(".")[0] in FOLDERS and module.split(".")[0] != "hat":
            yield f"{path}:{line} imports the folder {module} instead of hat.{module}"
        elif target is not None and target != folder and target not in MAY_IMPORT[folder]:
            yield f"{path}:{line} in {folder}/ imports {module}"


def test_imports_point_one_way():
    assert len(SOURCES) > 30
    found = [breach for path in SOURCES for breach in breaches(path, path.relative_to(ROOT).parts[0])]
    assert found == []


def test_a_breach_would_be_seen(tmp_path):
    for folder, *lines in [
        ("hat", "from hat.train import losses", "from hat import serve"),
        ("train", "import hat.export", "import export"),
        ("serve", "from hat.demo.app import build"),
    ]:
        (tmp_path / "module.py").write_text("\n".join(lines))
        assert len(list(breaches(tmp_path / "module.py", folder))) >= len(lines)


def module_of(path):
    """The dotted name that a file is imported by."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = [*FOLDERS[folder].split("."), *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph():
    """Module -> modules of ours that it imports, at its top or in a function; imports for type checkers alone are left out."""
    modules = {module_of(path): path for path in SOURCES}
    graph = {}
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        checking = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
        left_out = {child for node in checking for child in ast.walk(node)}
        graph[name] = set()
        for node in ast.walk(tree):
            if node in left_out or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            else:
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                found = [full if (full := f"{base}.{alias.name}") in modules else base for alias in node.names]
            graph[name] |= {target for target in found if target in modules} - {name}
    return graph


def circles(graph):
    """Groups of nodes that reach each other: what is left when nodes without successors or predecessors are taken away."""
    left = {node: set(targets) for node, targets in graph.items()}
    while True:
        imported = set().union(*left.values()) if left else set()
        loose = {node for node, targets in left.items() if not targets or node not in imported}
        if not loose:
            return sorted(left)
        left = {node: targets - loose for node, targets in left.items() if node not in loose}


def test_no_import_circles():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles(import_graph()) == []


def test_every_field_of_a_configuration_has_a_docstring():
    # The service's own are set by options of hat serve and described there.
    nodes = (node for path in SOURCES if ROOT / "serve" not in path.parents for node in ast.walk(ast.parse(path.read_text())))
    configurations = [node for node in nodes if "config_dataclass" in map(ast.unparse, getattr(node, "decorator_list", []))]
    is_described = {
        f"{cls.name}.{field.target.id}": isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        for cls in configurations
        for field, following in itertools.zip_longest(cls.body, cls.body[1:])
        if isinstance(field, ast.AnnAssign)
    }
    assert len(is_described) > 100
    assert [name for name, described in is_described.items() if not described] == []


def test_files_and_rooms_are_of_a_readable_size_and_named_for_what_they_hold():
    forbidden = {"utils", "util", "common", "misc", "helpers", "numpy", "torch", "onnx", "PIL", "typer", "timm", "yaml"}
    forbidden |= set(sys.stdlib_module_names)
    long = [f"{path.name}: {count}" for path in SOURCES if (count := len(path.read_text().splitlines())) > 450]
    badly_named = [str(path) for path in SOURCES if path.stem in forbidden and path.stem != "__init__"]
    rooms = Counter(path.parent for path in SOURCES)
    full = [f"{room}: {count} files" for room, count in rooms.items() if count > 18]
    assert (long, badly_named, full) == ([], [], [])


def test_the_wheel_holds_one_top_level_name_and_every_folder_with_code(tmp_path):
    source = tmp_path / "source"  # setuptools builds inside the source folder, which is not ours to write to
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("hat_reid-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"hat"}
    expected = {"hat/py.typed"}
    for path in (*SOURCES, *ROOT.glob("*/**/templates/*")):
        folder, *rest = path.relative_to(ROOT).parts
        expected.add("/".join([*FOLDERS[folder].split("."), *rest]))
    assert expected <= set(names)


PACKAGES = "hat hat.data hat.demo hat.export hat.metrics hat.model hat.runtime hat.serve hat.serve.service hat.train hat.visual"


@pytest.mark.parametrize("package", PACKAGES.split())
def test_public_names_are_there(package):
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__) or module.__all__ == sorted(module.__all__, key=_isort_key)
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError):
        _ = module.no_such_name
    # A submodule puts itself into its package under its own name when it is imported, over a name that is still to be loaded.
    if (Path(module.__file__).parent / "__init__.pyi").exists():
        submodules = {found.name for found in pkgutil.iter_modules(module.__path__)}
        assert not submodules & set(module.__all__)


def _isort_key(name):
    """The order that the linter keeps: constants, classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

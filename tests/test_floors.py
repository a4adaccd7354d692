"""The house keeps its floors: imports go down only, without circles, and torch.distributed lives in three files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("torch_clustering", "utils", "data", "models", "training", "evaluation", "main")
DISTRIBUTED = {"utils.distributed", "utils.process_group", "torch_clustering._collectives"}
ONLY_IN = {
    "importlib.import_module": set(),
    "__import__": set(),
    "importlib.util.find_spec": {"utils.compat"},
    "importlib.metadata.version": {"utils.doctor"},
}


def sources(root: Path) -> dict[str, ast.Module]:
    """Syntax tree of every module of the rooms, by dotted name; a package has the name of its folder."""
    files = [root / "main.py", *(file for room in FLOORS for file in (root / room).rglob("*.py"))]
    trees = {}
    for file in files:
        if file.exists():
            parts = file.relative_to(root).with_suffix("").parts
            trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(file.read_text())
    return trees


def imports(tree: ast.Module, modules: set[str]) -> set[str]:
    """Every dotted name that the file imports, function bodies and TYPE_CHECKING blocks included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.add(submodule if submodule in modules or node.module == "torch" else str(node.module))
    return names


def faults(root: Path) -> list[str]:
    """What is wrong with the house at `root`, one line each."""
    trees = sources(root)
    graph = {name: imports(tree, set(trees)) for name, tree in trees.items()}
    found = []
    for name, imported in graph.items():
        floor = FLOORS.index(name.split(".")[0])
        for other in sorted(imported):
            room = other.split(".")[0]
            if room in FLOORS and FLOORS.index(room) > floor:
                found.append(f"{name} imports {other} from a floor above")
            if other.startswith("torch.distributed") and name not in DISTRIBUTED:
                found.append(f"{name} imports {other}")
        text = ast.unparse(trees[name])
        for word, allowed in ONLY_IN.items():
            if f"{word}(" in text and name not in allowed:
                found.append(f"{name} calls {word}")
        found += [f"{name} uses torch.distributed"] if uses_distributed(trees[name], name) else []
    return found + [f"import circle: {name}" for name in circle(graph)]


def uses_distributed(tree: ast.Module, name: str) -> bool:
    """Whether the attribute `torch.distributed` is reached without an import statement."""
    reached = any(
        isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.distributed") for node in ast.walk(tree)
    )
    return reached and name not in DISTRIBUTED


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules left after peeling, again and again, those whose imports are all peeled."""
    left = {name: {other for other in imported if other in graph} for name, imported in graph.items()}
    while free := {name for name, imported in left.items() if not imported & (left.keys() - {name})}:
        left = {name: imported for name, imported in left.items() if name not in free}
    return sorted(left)


def test_imports_go_down_only_and_form_no_circle() -> None:
    assert faults(ROOT) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("utils/clock.py", "from data.batch import Batch", "utils.clock imports data.batch from a floor above"),
        ("utils/clock.py", "def f():\n    import training", "utils.clock imports training from a floor above"),
        ("data/batch.py", "import torch.distributed as dist", "data.batch imports torch.distributed"),
        ("data/batch.py", "from torch import distributed", "data.batch imports torch.distributed"),
        ("data/batch.py", "import torch\ntorch.distributed.barrier()", "data.batch uses torch.distributed"),
        ("data/batch.py", "import importlib\nimportlib.import_module('x')", "data.batch calls importlib.import_module"),
        ("utils/clock.py", "from utils import draws", "import circle: utils.clock"),
    ],
)
def test_each_kind_of_fault_is_found(tmp_path: Path, file: str, text: str, fault: str) -> None:
    rooms = {"utils/__init__.py": "", "utils/draws.py": "from utils.clock import Clock", "utils/clock.py": ""}
    rooms |= {"data/__init__.py": "", "data/batch.py": "", "training/__init__.py": ""} | {file: text}
    for name, content in rooms.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert fault in faults(tmp_path)


def test_no_test_folder_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_no_file_is_longer_than_its_budget() -> None:
    lines = {file: len(file.read_text().splitlines()) for room in FLOORS for file in (ROOT / room).rglob("*.py")}
    assert {str(file.relative_to(ROOT)): n for file, n in lines.items() if n > 300} == {}


def test_ground_truth_is_spoken_of_where_it_is_read_and_judged_only() -> None:
    allowed = (ROOT / "data" / "sources", ROOT / "evaluation")
    files = [file for room in FLOORS[1:-1] for file in (ROOT / room).rglob("*.py")] + [ROOT / "main.py"]
    outside = [file for file in files if not any(place in file.parents for place in allowed)]
    assert len(outside) > 30
    assert [str(file) for file in outside if "read_truth" in file.read_text() or "truth =" in file.read_text()] == []

"""No file that is read can run code: the calls that could are banned, and those that are needed are made safely."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("torch_clustering", "utils", "data", "models", "training", "evaluation", "benchmarks")
BANNED = {
    *("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pickle.loads"),
    *("pickle.load", "marshal.loads", "marshal.load", "shelve.open", "joblib.load", "tempfile.mktemp", "dill.load"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load", "shutil.unpack_archive"),
}
BANNED_METHODS = {"extractall", "extract"}  # of archives: members are read and written under names of ours
NEEDED = {"torch.load": ("weights_only", True)}  # what must be said
REFUSED = {"shell": True, "allow_pickle": True, "weights_only": False}  # what must not
ONLY_IN = {"runpy.run_path": {"utils/plugins.py"}, "pickle.Unpickler": {"data/sources/cifar.py"}}


def calls(tree: ast.AST) -> list[tuple[str, dict[str, object], int]]:
    """(dotted name as written, its constant keywords, line) of every call and of every base of a class."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = {word.arg: word.value.value for word in node.keywords if word.arg and is_constant(word.value)}
            found.append((ast.unparse(node.func), words, node.lineno))
        elif isinstance(node, ast.ClassDef):
            found += [(ast.unparse(base), {}, node.lineno) for base in node.bases]
    return found


def is_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


def faults(root: Path) -> list[str]:
    """What is wrong in the files under `root`, one line each."""
    found = []
    for file in (root / "main.py", *(file for room in ROOMS for file in sorted((root / room).rglob("*.py")))):
        if not file.exists():
            continue
        name = file.relative_to(root).as_posix()
        for called, words, line in calls(ast.parse(file.read_text())):
            need = NEEDED.get(called)
            if (
                called in BANNED
                or called.rpartition(".")[2] in BANNED_METHODS
                or (need and words.get(need[0]) is not need[1])
                or any(words.get(word) is value for word, value in REFUSED.items())
                or name not in ONLY_IN.get(called, {name})
            ):
                found.append(f"{name}:{line}: {called}")
    return found


def test_nothing_that_is_read_can_run_code_and_no_shell_is_asked() -> None:
    assert faults(ROOT) == []


@pytest.mark.parametrize(
    "text",
    [
        *("eval('1')", "os.system('ls')", "yaml.load(x, Loader)", "pickle.load(f)", "tar.extractall('x')"),
        *("torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "runpy.run_path(p)"),
        *("subprocess.run('ls', shell=True)", "class A(pickle.Unpickler):\n    pass"),
    ],
)
def test_each_kind_of_fault_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text(f"def f():\n    {text.replace(chr(10), chr(10) + '    ')}\n")
    assert len(faults(tmp_path)) == 1


def test_what_is_safe_is_not_a_fault(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "torch.load(f, weights_only=True)\nnp.load(f)\nmodel.eval()\nyaml.safe_load(t)\nsubprocess.run(['ls'])\n"
    )
    assert faults(tmp_path) == []


def test_every_dependency_of_the_lock_has_one_version() -> None:
    lock = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1].isalnum()]
    assert len(lock) > 50
    assert [line for line in lock if "==" not in line] == []

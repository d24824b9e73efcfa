"""The bars of the house style, measured: a module or function that outgrows them fails here, with its place."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("biosegkit", "napari_plugin", "pipelines", "sample_data")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in MODULES}

MODULE_LINES, FUNCTION_LINES, FUNCTION_LINES_P95, PARAMETERS = 400, 80, 45, 8

#: Functions that may take more parameters than the bar, and why.
MANY_PARAMETERS = {
    ("biosegkit/configure.py", "make_plan"): "one keyword per option of the command line: the public door to the plan",
    ("biosegkit/train.py", "fit"): "the public door to training: plan, data, folder, and how to go about it",
    ("biosegkit/loop.py", "train"): "the training run on one page: what to train, where, and how it may be stopped",
    ("biosegkit/predict.py", "predict_files"): "the public door to prediction of many files",
    ("biosegkit/batch/run.py", "predict_batch"): "the public door to prediction of many files by many workers",
    ("biosegkit/cli.py", "train"): "a verb of the command line: each parameter is a group of options",
    ("biosegkit/cli.py", "predict"): "a verb of the command line",
    ("biosegkit/cli.py", "evaluate"): "a verb of the command line",
}

#: Modules that may catch any error: where one case of many fails, is recorded, and the others go on.
CATCHES_ALL = {"biosegkit/predict.py", "biosegkit/batch/tasks.py"}

#: Attributes that are never used: they round geometry, widen types, or unpack what a stranger packed.
BANNED = {"get_zooms", "get_fdata", "extractall"}

#: Modules whose work is to write to the terminal.
TERMINAL = {"biosegkit/cli.py", "biosegkit/_console.py"}

#: Lengths that are never one where a message has them, or that count something else than its noun.
SEVERAL = {"kinds", "full", "several", "folds", "cases", "axes", "shape", "spacings", "shapes", "canvas.shape", "self",
           "rays", "items", "text", "class_weights", "plan.strides", "offsets", "stored.names", "scales", "groups",
           "seen", "missing", "there"}

HEAVY = ("torch", "monai", "numba", "napari", "matplotlib")

#: The floors that need no torch, as in the contracts of pyproject.toml.
TORCH_FREE = ("errors", "_words", "_lazy", "_atomic", "lattice", "grid", "image", "tables", "predictor",
              "kernels.distance", "io", "description", "layouts", "case_tables", "splits", "cases", "task_choice",
              "checks", "object_shapes", "fingerprint",
              "plan.schema", "plan.nnunet", "plan.draft", "engines", "cli", "recipe")


def functions():
    """Every function with the file it is in."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield name, node


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def parameters(node: ast.FunctionDef) -> int:
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([n for n in names if n not in ("self", "cls")])


def calls(tree: ast.AST, name: str) -> list[int]:
    return [n.lineno for n in ast.walk(tree)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name]


def catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(k is None or (isinstance(k, ast.Name) and k.id in ("Exception", "BaseException")) for k in kinds)


def tracked() -> list[Path]:
    """The files of the repository; of a source tree without git, the project's own folders."""
    if shutil.which("git") and (ROOT / ".git").exists():
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]
    return [p for folder in (*PACKAGES, "tests", "benchmarks", "docs") for p in (ROOT / folder).rglob("*")
            if p.is_file()]


def texts() -> dict[str, str]:
    found = {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:4096]:
            found[path.relative_to(ROOT).as_posix()] = data.decode("utf-8")
    return found


def test_the_bars_see_the_code():
    assert len(MODULES) > 50
    assert sum(1 for _ in functions()) > 500


def test_modules_are_short():
    long = {name: n for name in TREES if (n := len((ROOT / name).read_text("utf-8").splitlines())) > MODULE_LINES}
    assert not long


def test_functions_fit_on_a_screen():
    long = {f"{name}:{f.lineno} {f.name}": length(f) for name, f in functions() if length(f) > FUNCTION_LINES}
    assert not long
    assert np.percentile([length(f) for _, f in functions()], 95) <= FUNCTION_LINES_P95


def test_functions_take_few_parameters():
    many = {(name, f.name): parameters(f) for name, f in functions() if parameters(f) > PARAMETERS}
    assert {k: v for k, v in many.items() if k not in MANY_PARAMETERS} == {}
    assert set(MANY_PARAMETERS) <= set(many), "an exception that is no longer needed"


def test_nothing_prints_but_the_command_line():
    found = {name: lines for name, tree in TREES.items() if name not in TERMINAL and (lines := calls(tree, "print"))}
    assert not found


def test_no_handler_catches_everything():
    found = {f"{name}:{node.lineno}" for name, tree in TREES.items() if name not in CATCHES_ALL
             for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and catches_all(node)}
    assert not found


def test_user_input_is_not_checked_by_assert():
    found = {f"{name}:{node.lineno}" for name, tree in TREES.items() for node in ast.walk(tree)
             if isinstance(node, ast.Assert)}
    assert not found


def test_no_banned_method_is_used():
    found = {f"{name}:{node.lineno} {node.attr}" for name, tree in TREES.items() for node in ast.walk(tree)
             if isinstance(node, ast.Attribute) and node.attr in BANNED}
    assert not found


def test_no_code_is_run_from_data():
    found = {f"{name} {f}": lines for name, tree in TREES.items() for f in ("eval", "exec", "compile", "__import__")
             if (lines := calls(tree, f))}
    assert not found


def test_classes_inherit_from_few_things():
    """Modules, models, errors and protocols; a mixin or a hierarchy of the project's own does not pass."""
    allowed = {"Module", "BaseModel", "Exception", "BaseException", "Protocol", "NamedTuple", "TypedDict", "ModuleType",
               "QWidget", "QObject"}
    seams = {"Sequence": ("biosegkit/cases.py", "biosegkit/state_files.py"),  # other libraries' interfaces
             "Mapping": ("biosegkit/state_files.py",),
             "Handler": ("biosegkit/io/tiff.py",), "QAbstractTableModel": ("napari_plugin/columns.py",),
             "FsspecStore": ("biosegkit/io/remote.py",), "TyperCommand": ("biosegkit/_help.py",),
             "Function": ("biosegkit/losses/cldice.py", "biosegkit/nets/instance_norm.py")}
    found = []
    for name, tree in TREES.items():
        classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
        plain = allowed | {c.name for c in classes} | {seam for seam, homes in seams.items() if name in homes}
        for node, base in ((n, ast.unparse(b).split("[")[0].split(".")[-1]) for n in classes for b in n.bases):
            if base not in plain and not base.endswith("Error"):
                found.append(f"{name}:{node.lineno} {node.name}({base})")
    assert not found


def test_no_module_is_a_drawer():
    found = [name for name in TREES if re.search(r"(^|[/_])(utils?|helpers?|base|common|misc)\.py$", name)]
    assert not found


def test_nothing_is_left_to_do():
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    found = {f"{name}:{i}" for name, text in texts().items() for i, line in enumerate(text.splitlines(), 1)
             if marks.search(line)}
    assert not found


def test_no_machine_and_no_registry_is_named():
    """Paths of one machine, and hosts of package registries, belong to whoever runs the code."""
    named = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w|" "pypi" r"\.org|" "python" r"hosted\.org|"
                       "conda" r"\.anaconda\.org")
    found = {f"{name}:{i} {line.strip()[:80]}" for name, text in texts().items()
             for i, line in enumerate(text.splitlines(), 1) if named.search(line)}
    assert not found


def imported_by(code: str) -> set[str]:
    """What of the heavy packages a fresh interpreter has loaded after ``code``."""
    report = f"{code}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_is_light():
    assert imported_by("import biosegkit; biosegkit.__version__; dir(biosegkit)") == set()


def test_a_heavy_import_would_be_noticed():
    assert imported_by("import numba") == {"numba"}


@pytest.mark.parametrize("modules", [TORCH_FREE], ids=["floors-0-to-4"])
def test_lower_floors_load_no_torch(modules):
    code = "\n".join(f"import biosegkit.{m}" for m in modules)
    assert not imported_by(code) & {"torch", "monai", "napari"}


def test_every_public_name_is_listed_once_in_each_place():
    import biosegkit

    stubs = {alias.asname for node in ast.walk(TREES["biosegkit/__init__.py"]) if isinstance(node, ast.ImportFrom)
             for alias in node.names if alias.asname == alias.name}
    assert set(biosegkit.__all__) - {"__version__"} == stubs == {*biosegkit._HOMES, "io"}
    homes = {name: f"biosegkit/{home.replace('.', '/')}" for name, home in biosegkit._HOMES.items()}
    for name, home in homes.items():
        tree = TREES.get(f"{home}.py") or TREES[f"{home}/__init__.py"]
        public = next(ast.literal_eval(n.value) for n in tree.body
                      if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
        assert name in public, f"{name} is not in __all__ of {home}"


def test_lengths_in_messages_agree_with_their_nouns():
    """No "1 cases": a message says ``counted(len(x), "noun")``, or the length cannot be one (`SEVERAL`)."""
    found = []
    for name in (n for n in TREES if n.startswith("biosegkit/")):
        said = re.finditer(r"\{len\(([^{}]*)\)\} (?:[a-z-]+ )?[a-z]+s\b", (ROOT / name).read_text("utf-8"))
        found += [f"{name}: {match[0]}" for match in said if match[1] not in SEVERAL]
    assert not found, "say biosegkit._words.counted"

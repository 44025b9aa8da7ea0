"""The house rules that a program can check: who imports whom, what an import costs, sizes of files, what must never appear."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fastlstm.backends import cpu, gpu, reference

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastlstm"

# From the ground up: a module imports its own storey and those below. A name stands for a module or a package.
STOREYS = (
    ("_core",),
    (
        "errors",
        "devices",
        "version",
        "settings",
        "serialization",
        "identifiers",
        "arrays",
        "numerics",
        "random",
        "dtypes",
        "variable",
        "tables",
        "progress",
        "utils",
    ),
    ("io",),
    ("activation_formulas", "activations", "initializers", "regularizers", "constraints"),
    ("spec",),
    ("backends",),
    ("selector",),
    ("layers",),
    ("training",),
    ("callbacks", "losses", "metrics", "optimizers"),  # names of modules of training
    ("models",),
    ("export",),
    ("report",),
    ("verify",),
    ("fastlstm",),  # fastlstm/__init__.py
    ("train_command", "onnx_command", "convert_command", "verify_command", "export_command"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(STOREYS) for name in names}

# What each package outside the standard library is for, and the files that may import it; "" stands for every file.
OPTIONAL = {
    "h5py": {"io/hdf5.py"},
    "matplotlib": {"training/history.py"},
    "onnx": {"io/onnx_file.py", "verify/child.py"},
    # In processes of their own.
    **{name: {"verify/child.py"} for name in ("keras", "tf_keras", "tensorflow", "torch", "onnxruntime")},
    "ml_dtypes": {"dtypes.py"},
    "tqdm": {""},
    "scipy": {"initializers.py"},
    "cupy": {"devices.py"},
}


class Import(NamedTuple):
    """One imported module: dotted name, line, and whether it happens when the importing module is loaded."""

    name: str
    line: int
    at_load: bool


def files() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 20, "the package was not found"
    return found


def module_name(path: Path) -> str:
    """ "fastlstm.layers.base" of fastlstm/layers/base.py, "fastlstm.layers" of its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in files()}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def _walk(node: ast.AST, at_load: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = at_load and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield child, inside
        yield from _walk(child, inside)


def imports_of(path: Path) -> list[Import]:
    """All imports of a file, those inside functions too, relative ones made absolute."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found = []
    for node, at_load in _walk(parse(path), True):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, at_load) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                known = inner in MODULES or inner == "fastlstm._core"
                found.append(Import(inner if known else base, node.lineno, at_load))
    return found


def storey(module: str) -> int:
    """Rank of a dotted module name of the package."""
    name = module.split(".")[1] if "." in module else module
    assert name in RANK, f"{module} stands on no storey: add it to STOREYS"
    return RANK[name]


def is_ours(name: str) -> bool:
    return name == "fastlstm" or name.startswith("fastlstm.")


# -- imports ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downhill(module: str) -> None:
    own = storey(module)
    uphill = [
        f"{MODULES[module].relative_to(ROOT)}:{found.line} imports {found.name}"
        for found in imports_of(MODULES[module])
        if is_ours(found.name) and storey(found.name) > own
    ]
    assert not uphill


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {m: {f.name for f in imports_of(p) if f.at_load and f.name in MODULES and f.name != m} for m, p in MODULES.items()}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {m for m in graph if m not in done and graph[m] <= done}
        assert ready, f"a circle among {sorted(set(graph) - done)}"
        done |= ready


def test_io_knows_no_layer() -> None:
    """io turns files into plain dicts and arrays: it stands on the ground storeys alone."""
    for path in sorted((PACKAGE / "io").glob("*.py")):
        for found in imports_of(path):
            if is_ours(found.name) and not found.name.startswith("fastlstm.io"):
                assert storey(found.name) <= storey("fastlstm.variable"), f"{path.name}:{found.line} imports {found.name}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_packages_outside_the_standard_library(module: str) -> None:
    """NumPy everywhere; the optional packages in their own files and never when fastlstm is loaded; nothing else."""
    path = MODULES[module]
    for found in imports_of(path):
        top = found.name.split(".")[0]
        if top in sys.stdlib_module_names or top in ("fastlstm", "numpy"):
            continue
        where = f"{path.relative_to(ROOT)}:{found.line} imports {found.name}"
        assert top in OPTIONAL, f"{where}, which is no dependency"
        assert not found.at_load, f"{where} when the module is loaded"
        assert OPTIONAL[top] & {"", path.relative_to(PACKAGE).as_posix()}, f"{where} outside its own file"


def test_scipy_is_looked_up_in_one_cython_file_at_first_need() -> None:
    """scipy.linalg.cython_blas takes long to import and may be absent: no cimport, no import at the margin."""
    for path in cython_files():
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            where = f"{path.name}:{number}: {line}"
            assert not re.search(r"\bscipy\S* +cimport\b|\bcimport +scipy", line), where
            assert not re.match(r"(from|import)\s+scipy", line), where
            if re.search(r"\b(from|import)\b.*\bscipy", line.partition("#")[0]):
                assert path.stem == "blas", where


def cython_files() -> list[Path]:
    found = sorted(path for path in (ROOT / "pyx").iterdir() if path.suffix in (".pyx", ".pxd", ".pxi"))
    assert found, "pyx/ was not found"
    return found


LOADED = "import sys, fastlstm; print(' '.join({m.split('.')[0] for m in sys.modules}))"


def clean_environment() -> dict[str, str]:
    """The environment without what would make an import slow or forbid compiled bytecode."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}


def test_import_loads_no_optional_package() -> None:
    run = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, env=clean_environment())
    loaded = set(run.stdout.split())
    assert {"fastlstm", "numpy"} <= loaded
    assert not loaded & set(OPTIONAL)


def test_import_adds_at_most_30_ms_to_numpy() -> None:
    """In processor time: the least of many runs, as whatever else the machine does can only add to it."""
    seconds = [added_by_import() for _ in range(15)]
    if min(seconds) > 0.030:
        pytest.fail(f"import fastlstm adds {1e3 * min(seconds):.1f} ms to import numpy, allowed are 30")


def added_by_import() -> float:
    """Seconds that ``import fastlstm`` takes behind ``import numpy``, in a process of its own.

    Of this thread: the threads of NumPy's BLAS spin for some 20 ms behind its import, whatever comes next.
    """
    code = "import time, numpy; start = time.thread_time(); import fastlstm; print(time.thread_time() - start)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean_environment())
    return float(run.stdout)


# -- what must never appear ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_is_unpickled_or_executed(module: str) -> None:
    path = MODULES[module]
    names = {found.name.split(".")[0] for found in imports_of(path)}
    assert not names & {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "code", "runpy", "imp"}
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.Call):
            continue
        where = f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"), where
        if called.endswith("import_module"):
            assert isinstance(node.args[0], ast.Constant), where
        if called in ("np.load", "numpy.load"):
            allow = [k.value for k in node.keywords if k.arg == "allow_pickle"]
            assert not allow or (isinstance(allow[0], ast.Constant) and allow[0].value is False), where


def generated_c() -> set[Path]:
    return {path.with_suffix(".c") for path in (ROOT / "pyx").glob("*.pyx")}


def sources() -> list[Path]:
    found = [*files(), *PACKAGE.rglob("*.pyi")]
    for folder in ("pyx", "include"):
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".pyx", ".pxd", ".pxi", ".c", ".h")]
    found += [path for path in PACKAGE.rglob("*") if path.suffix in (".cu", ".cuh")]
    return sorted(set(found) - generated_c())


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_function_is_longer_than_60_lines(path: Path) -> None:
    """Counted without docstring and signature: Keras' argument lists are long."""
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 60, f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(parse(path))


def without_comments(c: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", c, flags=re.DOTALL)


def mutable_statics(c: str) -> list[str]:
    """The ``static`` declarations of data that can be written, in C text."""
    found = []
    for match in re.finditer(r"\b(?:static|_Thread_local|__thread)\b[^;{=]*", without_comments(c)):
        declared = match.group().strip()
        function = "(" in re.sub(r"__attribute__\s*\(\(.*?\)\)|\bFL\w*\([^()]*\)", "", declared)
        # Constant data: the last const stands behind the last star.
        constant = "const" in declared and declared.rfind("const") > declared.rfind("*")
        if not function and "inline" not in declared.split() and not constant:
            found.append(declared)
    return found


def test_the_search_for_mutable_statics_finds_them() -> None:
    bad = ["static int x;", "static const char *name = 0;", "  static double cache[4] = {0};", "_Thread_local int depth;"]
    good = ["static inline int f(int x) { return x; }", "static const int table[2] = {1, 2};", "static const char *const s = 0;"]
    good += ["/* static int x; */", "static void FL(name)(int x) { }", "static __attribute__((unused)) int g(void);"]
    assert [len(mutable_statics(text)) for text in bad] == [1] * len(bad)
    assert [mutable_statics(text) for text in good] == [[]] * len(good)


@pytest.mark.parametrize("path", sorted((ROOT / "include").rglob("*.h")), ids=lambda path: path.name)
def test_the_c_library_holds_no_state(path: Path) -> None:
    text = "\n".join(line for line in path.read_text("utf-8").splitlines() if not line.startswith("#define FL_"))
    assert not mutable_statics(text)


@pytest.mark.parametrize("path", sorted((ROOT / "include").rglob("*.h")), ids=lambda path: path.name)
def test_the_c_library_knows_nothing_of_python(path: Path) -> None:
    text = without_comments(path.read_text("utf-8"))
    assert not re.search(r"\bPy[A-Z_]\w*|Python\.h|numpy", text)
    allowed = {"math.h", "stddef.h", "stdint.h", "string.h", "immintrin.h", "arm_neon.h"}
    assert set(re.findall(r"#include\s*<([^>]+)>", text)) <= allowed


# -- backends -----------------------------------------------------------------------------------------------------------
VERBS = (
    "prepare",
    "lstm_forward",
    "lstm_backward",
    "convlstm1d_forward",
    "convlstm1d_backward",
    "prepare_matrix",
    "affine",
    "conv1d",
    "activate",
)


@pytest.mark.parametrize("verb", VERBS)
def test_backends_have_the_same_verbs_and_arguments(verb: str) -> None:
    signatures = [inspect.signature(getattr(backend, verb)).parameters.values() for backend in (reference, cpu, gpu)]
    described = [[(p.name, p.kind, p.default) for p in parameters] for parameters in signatures]
    assert described[0] == described[1] == described[2]


def test_backends_are_named_after_their_modules() -> None:
    assert (reference.name, cpu.name, gpu.name) == ("reference", "cpu", "gpu")

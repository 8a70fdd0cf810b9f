"""Imports point down only, heavy packages are imported where they are used, and the house stays small."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From below. What stands in one line knows nothing of its neighbours there; a longer name is taken out of a shorter.
FLOORS = [
    ["persim.errors", "persim.seeding"],
    ["persim.storage"],
    ["persim.console", "persim.envs"],
    ["persim.data"],
    ["persim.learning.layers", "persim.learning.cuda_graph"],
    ["persim.learning.imitation"],
    ["persim.learning.model"],
    ["persim.learning.gradients", "persim.learning.presets", "persim.learning.polish"],
    ["persim.learning.captured"],
    ["persim.learning.training"],
    ["persim.learning.ensemble", "persim.learning.unseen"],
    ["persim.learning"],
    ["persim.planning"],
    ["persim.evaluation"],
    ["persim.methods"],
    ["persim.tables"],
    ["persim.cli"],
    ["persim.__main__"],
    ["baselines.common"],
    ["baselines.policy_method"],
    ["baselines.model_free", "baselines.morel", "baselines.cadm"],
    ["baselines.registry"],
    ["baselines"],
    ["sweeps.grid"],
    ["sweeps.engine"],
    ["sweeps.tuning"],
    ["sweeps.reporting", "sweeps.tracking"],
    ["sweeps.options"],
    ["sweeps.rank_cv", "sweeps.tune", "sweeps.benchmark", "sweeps.report", "sweeps.figures"],
    ["sweeps"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
ROOT_PACKAGE = "persim"  # has the version and registers the environments; importing any module of it runs it first
# Where a heavy package may be imported; it is installed, but not everywhere, and takes seconds.
ALLOWED = {
    "ray": ["sweeps"],
    "optuna": ["sweeps.tuning", "sweeps.tune", "sweeps.rank_cv"],
    "mlflow": ["sweeps.tracking"],
    "d3rlpy": ["baselines.model_free", "persim.tables.exchange"],
    "stable_baselines3": ["baselines.morel", "persim.data.train_policies"],
}
LIGHT = ["persim.cli", "baselines.registry", "sweeps.benchmark", "sweeps.engine.in_process"]
# 5,000 more than before issues 20 and 21: own tables, the one writer, checks of what files and environments hold.
LINES, SWEEPS_LINES, FILE_LINES = 27_000, 7_900, 300


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    name_of(path): path
    for package in ("persim", "baselines", "sweeps")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def within(module, names):
    """The longest of these names that is the module or a package around it; None if there is none."""
    around = [name for name in names if module == name or module.startswith(f"{name}.")]
    return max(around, key=len, default=None)


@cache
def tree_of(module):
    return ast.parse(MODULES[module].read_text())


def imports(module, *, at_once=False):
    """What a module imports, as ``package.module`` or ``package.module.name``; ``at_once``: when it is imported."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; write the whole name"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        if not at_once or node in tree_of(module).body:
            yield from found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    if module == ROOT_PACKAGE:
        assert set(imports(module)) == {"persim.envs.gymnasium_env.register_all", "importlib", "typing.Any"}
        return
    own = within(module, FLOOR)
    assert own is not None, f"{module} has no floor: give it one in FLOORS"
    for name in imports(module):
        if name.split(".")[0] not in ("persim", "baselines", "sweeps"):
            continue
        other = within(name, FLOOR)
        if other is None:
            assert name in (ROOT_PACKAGE, "persim.__version__"), f"{module} imports {name}, which is not there"
        elif other != own:
            assert FLOOR[other] < FLOOR[own], f"{module} imports {name}, which is not below it"


def test_every_floor_is_there():
    for name in FLOOR:
        assert name in MODULES, f"FLOORS has {name}, which is not there any more"


def test_the_picture_shows_these_floors():
    rooms = re.findall(r'class="(?:title|name)"[^>]*>([a-z]\w+)', (ROOT / "docs" / "architecture.svg").read_text())
    floors = {".".join(name.split(".")[:2]): number for name, number in FLOOR.items() if name != "persim.__main__"}
    shown, package = [], ""
    for room in rooms:
        package = room if room in ("sweeps", "baselines", "persim") else package
        shown.append(room if room == package else f"{package}.{room}")
    assert sorted(shown) == sorted({*floors, "persim"})
    assert shown == sorted(shown, key=lambda name: -floors.get(name, FLOOR["persim.__main__"]))


def test_no_module_imports_itself_by_a_detour():
    graph = {module: {within(name, MODULES) for name in imports(module, at_once=True)} for module in MODULES}
    for module, needs in graph.items():
        needs.discard(None)
        needs.discard(ROOT_PACKAGE)
        needs.discard(module)
    TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_where_they_are_used(module):
    for name in imports(module):
        places = ALLOWED.get(name.split(".")[0])
        assert places is None or within(module, places), f"{module} imports {name}; only {', '.join(places)} may"


def test_what_needs_no_heavy_package_can_be_imported_without_them():
    code = f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "mlflow", "d3rlpy", "optuna"):
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
for module in {LIGHT}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(f"{{module}}: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == ""


def test_importing_persim_loads_nothing_heavy():
    heavy = "ray optuna mlflow pandas sklearn matplotlib pygame stable_baselines3 d3rlpy upath"
    code = f"import sys, persim, persim.cli; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_pickled_or_evaluated(module):
    calls = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call)
    }
    assert not calls & {"eval", "exec"}
    assert "pickle" not in MODULES[module].read_text().replace("never pickled", "")


def lines_of(package=""):
    paths = {module: path for module, path in MODULES.items() if module.startswith(package)}
    return {module: path.read_text().count("\n") for module, path in paths.items()}


def test_files_stay_small():
    long = {module: count for module, count in lines_of().items() if count > FILE_LINES}
    assert not long, f"split these by their ideas: {long}"


def test_packages_stay_small():
    assert sum(lines_of().values()) <= LINES
    assert sum(lines_of("sweeps").values()) <= SWEEPS_LINES


ARRAYS = re.compile(r"\b(NDArray|Tensor|Array|ArrayLike|Plans|Floats|States|Frame)\b")


def public_functions(node, hidden=False):
    for one in node.body:
        if isinstance(one, ast.ClassDef):
            yield from public_functions(one, hidden or one.name.startswith("_"))
        elif isinstance(one, ast.FunctionDef) and not hidden and not one.name.startswith("_"):
            yield one


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_of_arrays_say_their_shapes(module):
    for function in public_functions(tree_of(module)):
        kinds = [one.annotation for one in (*function.args.args, *function.args.kwonlyargs)] + [function.returns]
        types = [ast.unparse(kind) for kind in kinds if kind is not None]
        if any(ARRAYS.search(kind) and not kind.startswith(("Mapping", "dict", "Callable")) for kind in types):
            about = ast.get_docstring(function) or ""
            said = re.search(r"(``|\w )\[|``shape``|same shape|parameter's shape|[Ss]ee ``", about)
            assert said, f"{module}.{function.name}"

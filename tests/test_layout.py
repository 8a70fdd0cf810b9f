"""Imports point down only: sweeps -> baselines -> persim; evaluation -> planning -> model -> data -> envs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["sweeps", "baselines", "persim.cli", "persim.methods", "persim.evaluation", "persim.planning",
          "persim.learning.ensemble", "persim.learning.unseen", "persim.learning.training",
          "persim.learning.gradients", "persim.learning.model",
          "persim.data", "persim.envs"]  # fmt: skip


def layer(module):
    for index, name in enumerate(LAYERS):
        if module == name or module.startswith(name + "."):
            return index
    return None


def files():
    return sorted(path for package in ("persim", "baselines", "sweeps") for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own = layer(module)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            other = layer(name)
            assert own is None or other is None or other >= own, f"{module} imports {name}"
            if not module.startswith("sweeps"):
                assert name.split(".")[0] not in {"ray", "optuna", "mlflow"}, f"{module} imports {name}"


def test_importing_persim_loads_nothing_heavy():
    heavy = "ray optuna mlflow pandas sklearn matplotlib pygame stable_baselines3 d3rlpy upath"
    code = f"import sys, persim, persim.cli; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_or_evaluated(path):
    calls = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert not calls & {"eval", "exec"}
    assert "pickle" not in path.read_text().replace("never pickled", "")

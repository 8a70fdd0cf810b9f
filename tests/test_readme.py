"""What the README and the guides show is there and runs; the version is the same wherever it stands."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import persim

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
APART = "docs/add-a-method.md"  # tests/test_guides.py follows it
FOLDERS = "sweeps|persim|baselines|tests|benchmarks|docs"
SNIPPETS = [
    pytest.param(snippet, id=f"{page}-{number}")
    for page, text in PAGES.items()
    if page != APART
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]
COMMANDS = re.findall(
    r"(?:python (sweeps/\w+\.py|-m persim)|(?:^    |`)(persim)) ((?:\\\n|[^`\n#])*)",
    "\n".join(PAGES.values()),
    re.MULTILINE,
)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_snippets_run(snippet):
    lines = [line.removeprefix("  ") for line in snippet.splitlines()]
    exec(compile("\n".join(lines), "guide", "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_what_indented_snippets_import_is_there(page):
    for block in re.findall(r"(?<=\n\n)(?:    .*\n|\n(?=    ))+", PAGES[page]):
        code = re.sub(r"^    ", "", block, flags=re.MULTILINE)
        if not re.match(r"(import|from) \w", code):
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES)
def test_files_and_pictures_exist(page):
    for target in re.findall(r"\]\((?!\w+:)([^)#\s]*[./][^)#\s]*)", PAGES[page]):
        assert ((ROOT / page).parent / target).exists(), target
    for target in re.findall(rf"(?<![\w/.])(?:{FOLDERS})/[\w/*.-]+\.\w+", PAGES[page]):
        if page != APART or target != "baselines/imitation.py":
            assert any(ROOT.glob(target)), target


@cache
def help_of(program, command):
    words = [str(ROOT / program)] if program.startswith("sweeps/") else ["-m", "persim", *command]
    done = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


@pytest.mark.parametrize("program", sorted({program or command for program, command, _ in COMMANDS}))
def test_commands_have_the_options_that_pages_give_them(program):
    for found, command, arguments in COMMANDS:
        if (found or command) == program:
            shown = help_of(program, tuple(re.findall(r"^\w[\w-]*", arguments)))
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", arguments):
                assert re.search(rf"{option}\b", shown), f"{program} {arguments}: there is no {option}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for text in PAGES.values():
        for target in re.findall(r"(?:`|^    )make ([a-z][a-z-]+)", text, re.MULTILINE):
            assert f"\n{target}:" in makefile, target


def test_no_file_refers_to_what_others_do_not_have():
    away = ["DESIGN" + ".md", "FACTS" + ".md", "STACK" + ".md", "../" + "shared", "/work" + "/"]
    for path in ROOT.rglob("*"):
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".cff"} and ".venv" not in path.parts:
            found = [name for name in away if name in path.read_text()]
            assert not found, f"{path} refers to {found}"


def test_the_command_persim_says_its_version(monkeypatch, capsys):
    expected = f"persim {persim.__version__}\n"
    module, _, name = PROJECT["project"]["scripts"]["persim"].partition(":")
    monkeypatch.setattr(sys, "argv", ["persim", "--version"])
    with pytest.raises(SystemExit, match="0"):
        getattr(importlib.import_module(module), name)()
    assert capsys.readouterr().out == expected
    words = [sys.executable, "-m", "persim"]
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == expected
    done = subprocess.run([*words, "predict", "--env", "absent"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: environment 'absent' is unknown")
    assert done.stderr.count("\n") == 1


def test_the_version_is_the_same_everywhere():
    version = persim.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"\n## \[(\d\S*)\]", PAGES["CHANGELOG.md"])[1] == version
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "persim.__version__"}

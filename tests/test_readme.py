"""What the README and the guides show runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
SNIPPETS = [snippet for text in GUIDES for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_python_snippets_run(snippet):
    lines = [line.removeprefix("  ") for line in snippet.splitlines()]
    exec(compile("\n".join(lines), "guide", "exec"), {})


def test_files_and_pictures_exist():
    for target in re.findall(r"\]\(((?:docs|persim|sweeps)/[^)]+)\)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"(?<![\w/])(?:sweeps|persim|tests)/[\w/]+\.py", README):
        assert (ROOT / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z][a-z-]+)", README)):
        if f"make {target}" in README and target not in {"test", "a"}:
            assert f"\n{target}:" in makefile, target

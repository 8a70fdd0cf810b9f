"""Every number of a result in README.md and docs/ comes from rows: it stands in a block that the report writes."""

import re
from pathlib import Path

import pytest

from sweeps.reporting import rows
from sweeps.reporting.pages import END, START, filled
from sweeps.reporting.results import Results, read_notes

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES]

# Numbers that may stand in the README outside of blocks, code and links: none of them is a result.
ALLOWED = {
    "NeurIPS 2021": "the paper's year",
    "Python 3.11": "a version that is needed",
    "(Proposition 1)": "of the paper",
    "(Section 5.4)": "of the paper",
    "(Figures 1 and 5)": "of the paper",
    "Figures 1, 2, 4 and 5": "of the paper",
    "beside Table 5": "of the paper",
    "the 50-step open-loop prediction error": "a setting of the test",
    "agent 5 has the shortest pole": "the paper's number of an agent",
}
# The same for what looks like a result in a guide: three or more decimals, "x ± y", decimals in a table.
ALLOWED_IN_GUIDES = {
    "baselines.md": {"follows by 0.005 at every step": "a setting of BCQ"},
    "data.md": {"gravity, 0.0001 to 0.0035": "the range of a covariate"},
    "unseen.md": {"gravity 0.00005, 0.00008, 0.002, 0.0037 and 0.004": "covariates of the agents"},
}
# Guides with results that are not of cells and have no rows.
APART = {"performance.md": "times that benchmarks/*.py print; each table names its command"}
RESULT = re.compile(r"\d\.\d{3,}|\d\s*±\s*\d|^\|.*\|\s*\**[-−]?\d+\.\d", re.MULTILINE)


def outside(text):
    """A page without its blocks of results, its code, and the targets of its links."""
    text = re.sub(rf"^{START}.*?^{END}$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*", "", text, flags=re.MULTILINE)
    return re.sub(r"\]\([^)\s]*\)", "]", re.sub(r"`[^`]*`", "", text))


def without(text, allowed):
    """Takes the allowed phrases out, each of which has to be there."""
    for phrase in allowed:
        spaced = re.compile(r"\s+".join(map(re.escape, phrase.split())))
        assert spaced.search(text), f"{phrase!r} stands nowhere any more: take it off the list"
        text = spaced.sub("", text)
    return text


@pytest.fixture(scope="module")
def results():
    cells, folder = rows.read_all(ROOT / "results"), ROOT / "results"
    return Results(tuple(cells[name] for name in sorted(cells)), folder, read_notes(folder))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_say_what_the_rows_say(page, results):
    assert filled(page, results) == page.read_text(), "give: python sweeps/report.py"


def test_the_readme_has_its_blocks():
    names = re.findall(rf"^{START}(\S+) -->$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert names == ["headline", "ranks", "prediction", "rewards"]


def test_no_other_number_of_the_readme_is_a_result():
    text = without(outside((ROOT / "README.md").read_text()), ALLOWED)
    found = re.findall(r".{0,40}\d.{0,20}", text)
    assert not found, "results stand in blocks (docs/report.md); what is none, such as a setting, on the list ALLOWED"


@pytest.mark.parametrize("page", [page for page in GUIDES if page.name not in APART], ids=lambda page: page.name)
def test_no_other_number_of_a_guide_looks_like_a_result(page):
    text = without(outside(page.read_text()), ALLOWED_IN_GUIDES.get(page.name, {}))
    assert not [line for line in text.splitlines() if RESULT.search(line)], "results stand in blocks (docs/report.md)"


def test_guides_apart_are_there():
    assert set(APART) <= {page.name for page in GUIDES}


def test_a_result_that_is_typed_is_found():
    hidden = f"{START}x -->\n0.1111\n{END}\n\n    0.2222\n\n`0.3333` [a](b/0.4444)\n```\n0.5555\n```\n"
    page = f"RMSE 0.0052.\n\n{hidden}1.0 ± 2\n| agent 1 | **−44.7** |\n"
    assert RESULT.findall(outside(page)) == ["0.0052", "0 ± 2", "| agent 1 | **−44.7"]
    with pytest.raises(AssertionError, match="stands nowhere any more"):
        without("a", {"b 1": ""})

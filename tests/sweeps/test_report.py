"""The command: same rows same bytes, from rows alone; bad input in one line; the page in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from persim import console
from persim.storage import store
from persim.storage.cells import CellStore
from sweeps import report
from sweeps.reporting import sections as report_sections
from sweeps.reporting.page import Entry, Section, Table, render
from tests.sweeps.report_helpers import cells, fill, rank_trials

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

# What Chromium asks for by itself, now and then: its clock and its updates.
OF_THE_BROWSER = re.compile(
    r"^(http://)?(\w+\.google\.com|(update|optimizationguide-pa)\.googleapis\.com|\w+\.gvt1\.com)[:/]"
)


def groups():
    return [
        cells("prediction", "cartpole", "random", "persim", [0.01, 0.02], train=7.0),
        cells("reward", "cartpole", "random", "persim", [190.0, 200.0], train=7.0, decision=0.01),
        cells("reward", "cartpole", "random", "bcq-p", [60.0, 70.0], preset="laptop"),
        cells("reward", "cartpole", "random", "true-env", [200.0, 200.0]),
        cells("scarcity", "mountaincar", "random", "persim", [-60.0, -61.0], agents=25),
        rank_trials({3: [0.5, 0.6, 0.7], 5: [0.1, 0.11, 0.12]}),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with rows and report."""
    folder = tmp_path_factory.mktemp("report")
    fill(folder / "runs", *groups())
    out = folder / "results"
    assert console.run(report.main, ["--store", str(folder / "runs"), "--out", str(out)]) == 0
    return out


@pytest.fixture
def out(made, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "results"))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(capsys, *arguments):
    """The one line that a command ends with."""
    assert console.run(report.main, list(map(str, arguments))) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_what_is_written(made):
    assert {name for name in contents(made)} == {
        "report.md", "report.html", "rows-prediction.parquet", "rows-reward.parquet", "rows-holdout.parquet",
        "figures/iqm.svg", "figures/profiles.svg", "figures/scarcity-mountaincar.svg",
        *(str(path.relative_to(made)) for path in made.glob("figures/rank-cartpole-random-500-*.svg")),
    }  # fmt: skip
    text = (made / "report.md").read_text()
    assert "195.0 ± 7.1<br>paper " in text
    assert "1 trial" not in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (made / picture).exists()


def test_the_report_regenerates_from_its_folder_alone(made, tmp_path):
    again = tmp_path / "elsewhere"
    again.mkdir()
    for path in made.glob("*.parquet"):
        shutil.copy(path, again)
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, report.__file__, "--out", str(again)], check=True, env=environment, timeout=200)
    assert contents(again) == contents(made)


def test_collecting_twice_changes_nothing(out, tmp_path):
    before = contents(out)
    fill(tmp_path / "a", groups()[0], groups()[1])
    fill(tmp_path / "b", groups()[1][:1])
    arguments = ["--out", str(out), "--store", str(tmp_path / "b"), "--store", str(tmp_path / "a")]
    assert console.run(report.main, arguments) == 0
    assert contents(out) == before


def test_new_cells_are_added_and_old_pictures_go(out, tmp_path):
    (out / "figures" / "old.svg").write_text("of an earlier report")
    fill(tmp_path / "runs", cells("reward", "cartpole", "random", "persim", [180.0], seed=5))
    assert console.run(report.main, ["--out", str(out), "--store", str(tmp_path / "runs")]) == 0
    assert "3 trials, paper" in (out / "report.md").read_text()
    assert not (out / "figures" / "old.svg").exists()


def test_a_part_of_the_report(out, capsys):
    assert console.run(report.main, ["--out", str(out), "--suite", "rank_cv"]) == 0
    text = (out / "report.md").read_text()
    assert "chosen rank 5" in text
    assert "Fewer agents" not in text
    capsys.readouterr()
    assert "no rows of suite unseen" in refused(capsys, "--out", out, "--suite", "unseen")


def test_price_and_notes(out):
    (out / "notes.json").write_text(json.dumps({"about": "On <two> cores.", "14/mountaincar/random/25/5": "few plans"}))
    assert console.run(report.main, ["--out", str(out), "--price", "0.1"]) == 0
    page = (out / "report.html").read_text()
    assert "On &lt;two&gt; cores." in page
    assert "A core-hour is taken to cost $0.1." in page


def test_bad_input_is_one_line_and_changes_nothing(out, tmp_path, capsys):
    before = contents(out)
    assert "has no rows; run sweeps/benchmark.py" in refused(capsys, "--out", tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    assert "did you mean 'reward'" in refused(capsys, "--out", out, "--suite", "rewards")
    assert "price is -1.0" in refused(capsys, "--out", out, "--price", "-1")
    assert "has no finished cells" in refused(capsys, "--out", out, "--store", tmp_path / "nothing")
    other = cells("reward", "cartpole", "random", "persim", [(190.0, 190.0, 190.0, 190.0, 1.0), 200.0])
    fill(tmp_path / "runs", other)
    assert "is there twice" in refused(capsys, "--out", out, "--store", tmp_path / "runs")
    record = CellStore(tmp_path / "runs").record_path(other[0].cell.id)
    record.write_text(record.read_text().replace("190.0", "191.0"))
    assert "is damaged" in refused(capsys, "--out", out, "--store", tmp_path / "runs")
    assert contents(out) == before


@pytest.mark.parametrize("notes", ["[1]", '{"about": 3}', "{", '{"obout": "x"}', '{"9/mountaincar/random/500/7": ""}'])
def test_bad_notes_are_refused(out, capsys, notes):
    before = contents(out)
    (out / "notes.json").write_text(notes)
    assert "notes.json" in refused(capsys, "--out", out)
    (out / "notes.json").unlink()
    assert contents(out) == before


def test_damaged_rows_are_refused(out, capsys):
    path = out / "rows-reward.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    before = contents(out)
    assert "is damaged" in refused(capsys, "--out", out)
    assert contents(out) == before


def test_a_folder_that_cannot_be_written(made, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    runs = made.parent / "runs"
    assert "is no folder" in refused(capsys, "--out", file, "--store", runs)
    assert "cannot be written" in refused(capsys, "--out", file / "below", "--store", runs)


def test_a_full_disk_leaves_the_old_report(out, capsys, monkeypatch, tmp_path):
    before = contents(out)
    whole, written = store.write_atomic, []

    def full(path, data):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        whole(path, data)

    monkeypatch.setattr(store, "write_atomic", full)
    assert "No space left on device" in refused(capsys, "--out", out, "--price", "3")
    assert contents(out) == before


def test_a_section_can_be_added(out, monkeypatch):
    def mine(results):
        path = results.out / "factors.txt"
        return [Section("Mine", "mine", (path.read_text(),))] if path.exists() else []

    monkeypatch.setattr(report_sections, "PARTS", (*report_sections.PARTS, report_sections.Part(mine)))
    assert console.run(report.main, ["--out", str(out)]) == 0
    assert "Mine" not in (out / "report.html").read_text()
    (out / "factors.txt").write_text("R2 0.97")
    assert console.run(report.main, ["--out", str(out)]) == 0
    assert "<h2>Mine</h2>" in (out / "report.html").read_text()
    assert "## Mine" in (out / "report.md").read_text()


def test_text_is_never_markup():
    section = Section("<b>", "a", ("x | *y*",), (Table("c", ("head",), ((Entry(("<script>",)),),)),))
    assert "<script>" not in render("html", "t", [section]).decode()
    assert "x \\| \\*y\\*" in render("md", "t", [section]).decode()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        report.main(["--help"])
    text = capsys.readouterr().out
    assert "python sweeps/report.py --store runs" in text


class _Recorder(BaseHTTPRequestHandler):
    """Stands as proxy before a browser, hands out one page and writes down what is asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.server.page if self.path == "http://report.test/" else b"")

    def do_CONNECT(self):
        self.server.asked.append(self.path)
        self.send_error(502)

    def log_message(self, *arguments):
        pass


def browse(page, folder, *options):
    """Loads a page in Chromium; returns its elements as text and every address that the page asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Recorder)
    server.page, server.asked = page, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
             "--disable-default-apps", "--disable-gpu", "--disable-dev-shm-usage",
             "--disable-features=NetworkTimeServiceQuerying"]  # fmt: skip
    command = [CHROMIUM, "--headless", "--no-sandbox", f"--user-data-dir={folder}", *quiet, *options,
               f"--proxy-server=127.0.0.1:{server.server_port}", "--dump-dom", "http://report.test/"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    finally:
        server.shutdown()
        server.server_close()
    return done.stdout, [address for address in server.asked if not OF_THE_BROWSER.search(address)]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to load the page")
def test_the_page_in_a_browser_asks_for_nothing(made, tmp_path):
    page = (made / "report.html").read_bytes()
    elements, asked = browse(page, tmp_path / "profile")
    assert asked == ["http://report.test/"]
    assert b"://" not in page
    assert elements.count("<table") == page.count(b"<table") > 30
    assert elements.count("<img") == 4
    assert "<script" not in elements
    for anchor in re.findall(r'href="#([^"]+)"', elements):
        assert f'<section id="{anchor}"' in elements


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to load the page")
def test_a_request_would_be_seen(tmp_path):
    _, asked = browse(b'<img src="http://elsewhere.test/x.png">', tmp_path / "profile")
    assert "http://elsewhere.test/x.png" in asked


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to load the page")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_the_window(made, tmp_path, width):
    """What is wider scrolls in its own box; the probe script is the test's, not the page's."""
    page = (made / "report.html").read_text()
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)
    probe = "<script>document.title = [document.documentElement.scrollWidth, window.innerWidth,"
    probe += "[...document.images].every(i => i.complete && i.naturalWidth > 0)].join()</script>"
    page = page.replace("</body>", f"<script>onload = () => {{ {probe[8:-9]} }}</script></body>")
    elements, _ = browse(page.encode(), tmp_path / "profile", f"--window-size={width},900")
    scroll, inner, pictures = re.search(r"<title>(.*?)</title>", elements).group(1).split(",")
    assert int(scroll) <= int(inner)
    assert pictures == "true"

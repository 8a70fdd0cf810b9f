"""The report: every table and figure of the paper with ours beside it, as Markdown and one HTML page.

    python sweeps/report.py --store runs         collect what a benchmark has finished, then write the report
    python sweeps/report.py                      write it anew from the rows in --out alone
    python sweeps/report.py --suite scarcity     only what belongs to one suite

--out keeps everything: rows-KIND.parquet (one row per cell, metric and agent, of each kind of measurement; what is
there stays), report.md, report.html (needs no other file) and figures/. The same rows give the same bytes. An
optional notes.json there gives reasons and remarks (docs/report.md). If --out is the results/ beside the sweeps/ that
this program is in, the blocks of results in that README.md and docs/ are written anew, too.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from persim import console
from persim.errors import InputError, check_choice
from persim.storage import owners, store
from sweeps.reporting import rows as row_files
from sweeps.reporting.goal import check_notes
from sweeps.reporting.page import Section, render
from sweeps.reporting.pages import filled
from sweeps.reporting.results import Results, read_notes
from sweeps.reporting.rows import KINDS, SUITES, Cells
from sweeps.reporting.sections import sections

ROOT = Path(__file__).parents[1]
TITLE = "PerSim: our numbers beside the paper's"


def parser() -> console.Parser:
    """The command line."""
    marks = "in the report † marks another budget than the paper's, – what is not measured;"
    ends = f"{marks}\nexit status 2: bad input, nothing was written"
    p = console.Parser(prog="report.py", description=__doc__, epilog=ends)
    p.add_argument("--suite", help=f"show only its sections: {', '.join(SUITES)} (all)")
    p.add_argument("--out", type=console.folder, default=Path("results"), help="folder of rows and report (results)")
    about = "of sweeps/benchmark.py or rank_cv.py, whose finished cells are added to --out; may be given again"
    p.add_argument("--store", type=console.store, action="append", default=[], help=about)
    p.add_argument("--price", type=float, help="of a core-hour in $: adds what each method cost (left out)")
    return p


def check(args: argparse.Namespace) -> None:
    """Find what cannot work before anything is read.

    Raises:
        InputError: one line that says what and what to do.
    """
    if args.suite is not None:
        check_choice("suite", args.suite, SUITES)
    if args.price is not None and not (math.isfinite(args.price) and args.price >= 0):
        raise InputError(f"price is {args.price}, but it has to be a number of $ from 0 for a core-hour")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"out {str(args.out)!r} is no folder; give the folder of rows and report")


def gather(out: Path, stores: Sequence[Path], suite: str | None) -> Cells:
    """Read the cells of the folder and of these stores.

    Raises:
        InputError: no cell is there (that the suite asked for), one is damaged, or a cell is there with two values.
    """
    cells = row_files.read_all(out)
    for root in stores:
        cells = row_files.merge(cells, row_files.collect(root), f"(in store {str(root)!r} and in what was read before)")
    if not any(suite is None or suite in done.labels for done in cells.values()):
        what = f"no rows of suite {suite}" if suite else "no rows"
        raise InputError(
            f"{str(out)!r} has {what}; run sweeps/benchmark.py, then give its folder with --store, or another --out"
        )
    return cells


def files(cells: Cells, made: Sequence[Section], title: str, *, rows: bool) -> dict[str, bytes]:
    """Everything that is written, by path below the folder; ``rows``: also the rows."""
    found = {figure.path: figure.svg for section in made for figure in section.figures}
    found |= {f"report.{form}": render(form, title, made) for form in ("md", "html")}
    for kind in KINDS if rows else ():
        own = [done for done in cells.values() if done.cell.what == kind]
        if own:
            found[row_files.rows_path(Path(), kind).name] = row_files.encode(own)
    return found


def pages(results: Results) -> dict[Path, str]:
    """Blocks of results in README.md and docs/, by page with its new text; of a folder elsewhere there are none.

    Raises:
        InputError: the marks of a block are wrong.
    """
    if results.out.resolve() != ROOT / "results":
        return {}
    found = {page: filled(page, results) for page in (*ROOT.glob("README.md"), *sorted(ROOT.glob("docs/*.md")))}
    return {page: text for page, text in found.items() if text != page.read_text()}


def write_all(out: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of a report below a folder, and remove the pictures of an earlier report.

    Nothing that was there is touched until all new files are complete on the disk.

    Raises:
        InputError: the folder cannot be written.
    """
    store.prepare_folder(out, "out")
    for name in contents:
        store.regular(out / name, "out")
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=f".{owners.mark()}.", suffix=".part") as aside:
            for name, data in contents.items():
                store.write_atomic(Path(aside) / name, data)
            for name in contents:
                (out / name).parent.mkdir(exist_ok=True)
                (Path(aside) / name).replace(out / name)
        for path in list((out / "figures").glob("*.svg")):
            if f"figures/{path.name}" not in contents:
                path.unlink()
        with contextlib.suppress(OSError):  # there is no such folder, or it is not empty
            (out / "figures").rmdir()
    except OSError as error:
        raise InputError(
            f"out {str(out)!r} cannot be written ({error.strerror}); free space or give a folder that you can write to"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; returns the exit status."""
    args = parser().parse_args(argv)
    check(args)
    cells = gather(args.out, args.store, args.suite)
    results = Results(tuple(cells[name] for name in sorted(cells)), args.out, read_notes(args.out), args.price)
    check_notes(results)
    made = sections(results, args.suite)
    title = TITLE if args.suite is None else f"{TITLE} (suite {args.suite})"
    written, texts = files(cells, made, title, rows=bool(args.store)), pages(results)
    write_all(args.out, written)
    for page, text in texts.items():
        store.write_atomic(page, text.encode())
    suites = {suite: sum(suite in done.labels for done in cells.values()) for suite in SUITES}
    print(f"{len(cells)} cells ({', '.join(f'{suite} {count}' for suite, count in suites.items() if count)})")
    size = len(written["report.html"]) / 1e6
    print(f"written: {args.out / 'report.html'} ({size:.1f} MB), {args.out / 'report.md'}")
    if texts:
        print(f"blocks of results written anew: {', '.join(page.name for page in texts)}")
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))

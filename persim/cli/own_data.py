"""What the commands on your own data share: files that are checked before any work, printed frames, pictures."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from persim import console
from persim.errors import InputError
from persim.storage import store

if TYPE_CHECKING:
    import pandas as pd

    from persim.tables.reading import Array
    from persim.tables.schema import Schema

MODEL = ".safetensors"
SHOWN = 24  # rows of a frame that are printed


def add_model(p: console.Parser) -> None:
    """Add the simulator as the first argument."""
    p.add_argument("model", type=Path, metavar="MODEL", help="the simulator, as written by persim fit or adapt")


def add_path_options(p: console.Parser) -> None:
    """Add what predictions and plans of one agent have in common."""
    p.add_argument("--agent", required=True, metavar="ID", help="the agent, by its id in the table")
    p.add_argument("--start", type=Path, metavar="FILE", help="the agent's latest rows, in the form of the training\n"
                   "data, from whose end it starts (the end of the data that the\nsimulator has of it)")  # fmt: skip
    p.add_argument("--band", type=float, metavar="SHARE", help="add bands that cover this share, such as 0.9")
    p.add_argument("--out", type=Path, metavar="FILE.csv", help="write the rows here, too")
    p.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the states with their bands, and the inputs")


def check_output(path: Path | None, option: str, suffix: str) -> None:
    """Check before any work that a file can be written.

    Raises:
        InputError: it has another suffix or is a folder, or its folder cannot be written.
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise InputError(f"{option} {str(path)!r} is no {suffix} file; give a name that ends in {suffix}")
    if path.is_dir():
        raise InputError(f"{option} {str(path)!r} is a folder; give the name of a file in it")
    store.prepare_folder(path.resolve().parent, f"folder of {option}")


def write_csv(frame: pd.DataFrame, path: Path | None) -> None:
    """Write a frame, if there is a path, and say so."""
    if path is not None:
        store.write_atomic(path, frame.to_csv(index=False).encode())
        print(f"saved to {path}")


def read_columns(path: Path | None, roles: list[tuple[str, str]]) -> pd.DataFrame | None:
    """Read a file that has these columns; None where there is no path.

    Raises:
        InputError: it cannot be read or lacks one.
    """
    from persim.tables.reading import load_frame

    return None if path is None else load_frame(path, roles)[0]


def deliver(args: argparse.Namespace, title: str, schema: Schema, frame: pd.DataFrame, history: Array) -> None:
    """Print the frame of a prediction or plan from a history ``[X]``, write it and draw it, as the options ask."""
    print(f"{title}\n\n{shown(frame)}")
    write_csv(frame, args.out)
    if args.plot is not None:
        from persim.evaluation.pictures import save_png
        from persim.tables.pictures import path_figure

        save_png(path_figure(title, schema, frame, history), args.plot)
        print(f"picture saved to {args.plot}")


def shown(frame: pd.DataFrame) -> str:
    """Lay out the first rows of a frame."""
    rows = [[one if isinstance(one, str) else f"{one:.5g}" for one in row] for row in frame[:SHOWN].itertuples(False)]
    more = f"\n... and {len(frame) - SHOWN} more; --out writes all" if len(frame) > SHOWN else ""
    return console.table([str(column) for column in frame.columns], rows, left=0) + more


def named_function(text: str) -> Callable[..., Any]:
    """Import the function that ``module:function`` names; modules in the current folder are found, too.

    Raises:
        InputError: there is no such function.
    """
    module, _, name = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        why = f"reward {text!r} cannot be loaded ({' '.join(str(error).split())})"
        raise InputError(f"{why}; give module:function of a module in this folder, or recorded") from error
    if not callable(found):
        raise InputError(f"reward {text!r} is a {type(found).__name__}; give module:function of a function of a row")
    return found  # type: ignore[no-any-return]  # callable is all that is known

"""One attempt at a command, in a process of its own: what it printed, how it ended, and what it left behind.

The process is forked from this one, which has imported everything, so that an attempt takes a tenth of a second.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import stat
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

SECONDS = 30.0  # of the processor: on a busy machine other work counts on the clock
PATIENCE = 8  # times as long on the clock
STATUSES = {0, 1, 2, 70}
LEFT_BEHIND = re.compile(r"\.part|persim-ray-|\.lock$|\.probe-")


@dataclass(frozen=True)
class Attempt:
    """What came of it; ``status`` is None if it had to be killed. The seconds are those of its processor."""

    words: list[str]
    status: int | None
    out: str
    err: str
    seconds: float
    new: list[str]

    def faults(self) -> list[str]:
        """What is wrong with how it ended, in words."""
        found = []
        if self.status not in STATUSES or self.seconds > SECONDS:
            found.append(f"exit status {self.status} after {self.seconds:.0f} s")
        if "Traceback" in self.out + self.err:
            found.append("traceback")
        last = self.err.strip().splitlines()[-1:] or [""]
        if self.status in (2, 70) and "error:" not in last[0]:
            found.append(f"status {self.status} without a line that says why")
        if left := [name for name in self.new if LEFT_BEHIND.search(name)]:
            found.append(f"left behind: {left}")
        if self.status == 2 and (more := [name for name in self.new if name not in left]):
            found.append(f"refused, and left {more[:5]}")
        return found


def attempt(main, words, here, *, seconds=SECONDS, before=lambda: None):
    """Run a command with these words in the folder ``here``, whose subfolder ``tmp`` is its temporary folder."""
    (here / "tmp").mkdir(exist_ok=True)
    told = here.parent / f"{here.name}.out", here.parent / f"{here.name}.err"
    known, started = below(here), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(main, words, here, told, before)
    status, took = _waited(pid, started + PATIENCE * seconds)
    out, err = (path.read_bytes().decode(errors="replace") for path in told)
    errors = [name for name in sorted(below(here) - known) if not name.startswith("tmp/persim-error-")]
    return Attempt(list(words), status, out, err, took, errors)


def below(folder):
    """Every path below a folder, relative to it; what is no regular file or folder has its kind beside it."""
    found = set()
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        kind = "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else f" ({stat.S_IFMT(mode):o})"
        found.add(f"{path.relative_to(folder)}{kind}")
    return found


def _waited(pid, end):
    while time.monotonic() < end:
        done, how, used = os.wait4(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(how), used.ru_utime + used.ru_stime
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    used = os.wait4(pid, 0)[2]
    return None, used.ru_utime + used.ru_stime


def _child(main, words, here, told, before):
    """Become the command; never returns."""
    from persim import console

    status = 99
    try:
        os.setsid()
        os.chdir(here)
        os.environ["TMPDIR"], signal_default = str(here / "tmp"), signal.SIG_DFL
        signal.signal(signal.SIGALRM, signal_default)
        import tempfile

        tempfile.tempdir = None
        for number, path in zip((1, 2), told, strict=True):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), number)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8") for number in (1, 2)
        )
        sys.stdout.write("")
        sys.argv = [getattr(main, "__module__", "persim").rpartition(".")[2] + ".py", *words]
        logging.root.handlers = [logging.StreamHandler(sys.stderr)]
        before()
        status = console.run(main, words)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                status = 98
        os._exit(status)


def sandbox(folder):
    """A folder with all that may stand in the way of a file: folders, devices, pipes, links, names at their limit."""
    folder.mkdir(parents=True)
    (folder / "folder").mkdir()
    (folder / "file").write_text("precious")
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "to-folder").symlink_to("folder")
    (folder / "to-null").symlink_to("/dev/null")
    if os.geteuid() == 0:
        os.mknod(folder / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return folder


def in_the_way(folder):
    """The paths of a ``sandbox``, and some outside that nobody may change."""
    own = ["folder", "pipe", "loop", "to-folder", "to-null", "device", "file/below", "n" * 300, "ü" * 200, "."]
    return [*(str(folder / name) for name in own), "/dev/null", "/dev/full", "/proc/self/mem", "/proc/nowhere", "/", ""]


def precious(folder):
    """Whether everything in a ``sandbox`` is still what it was."""
    kinds = {"pipe": stat.S_ISFIFO, "loop": stat.S_ISLNK, "to-null": stat.S_ISLNK, "folder": stat.S_ISDIR}
    kinds |= {"device": stat.S_ISCHR} if os.geteuid() == 0 else {}
    same = all(kind((folder / name).lstat().st_mode) for name, kind in kinds.items())
    return same and (folder / "file").read_text() == "precious" and Path("/dev/null").is_char_device()

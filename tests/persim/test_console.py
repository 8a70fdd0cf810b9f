"""What every command of the project shares."""

import errno
import io
import os
import sys
import tempfile
from pathlib import Path

import pytest

from persim import console
from persim.errors import InputError, check_at_least, check_between, without_password


def test_a_table_has_its_first_columns_on_the_left_and_the_others_on_the_right():
    rows = [["1", "force=2", "20.5"], ["10", "x", "-"]]
    assert console.table(["agent", "covariates", "mean"], rows, left=2) == (
        "agent  covariates  mean\n"
        "1      force=2     20.5\n"
        "10     x              -"
    )  # fmt: skip
    assert console.table(["", "k"], [["ours", "1"], ["paper", ""]]) == "       k\nours   1\npaper"
    assert console.table(["k", "sum"], [], left=0) == "k  sum"


def test_a_row_of_another_length_than_the_heads_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        console.table(["a", "b"], [["1"]])


def fails(error):
    def main(argv):
        console.doing("training agent 3")
        raise error

    return main


def test_what_nobody_foresaw_is_one_line_and_a_file_with_the_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    error = KeyError("postgresql://me:geheim@host/db?password=geheim")
    assert console.run(fails(error), ["predict", "--tracking-uri", "http://me:geheim@host"]) == 70
    out, err = capsys.readouterr()
    (path,) = tmp_path.glob("persim-error-*.txt")
    assert (out, err.count("\n")) == ("", 1)
    assert "training agent 3: nobody foresaw KeyError" in err
    assert str(path) in err
    text = path.read_text()
    assert "Traceback" in text
    assert "predict --tracking-uri" in text
    assert "training agent 3" in text
    assert "geheim" not in text + err
    assert path.stat().st_mode & 0o077 == 0


def test_a_traceback_that_cannot_be_written_is_said(capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    assert console.run(fails(ZeroDivisionError()), []) == 70
    assert "cannot be written (No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (InputError("a\nb\x1b[31m\0"), 2, "error: a b\\x1b[31m\\x00\n"),
        (InputError("x" * 9000), 2, " ... "),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "No space left on device: /x/y"),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file"), 70, "nobody foresaw"),
        (BrokenPipeError(), 1, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_end_is_one_line_and_its_status(error, status, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert console.run(fails(error), []) == status
    err = capsys.readouterr().err
    assert expected in err
    assert err.strip().count("\n") == 0
    assert len(err) < 1200


def ended(output, encoding="utf-8"):
    """The status of a command, in a process of its own, whose output goes to this descriptor."""
    pid = os.fork()
    if pid == 0:
        os.dup2(output, 1)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding=encoding)
        status = console.run(lambda _: print("±" * 9000) or 0, [])
        sys.stdout.flush()  # as Python does at its end: what was not written has been dropped
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_reader_that_is_gone_a_full_output_and_an_ascii_terminal_make_no_traceback(tmp_path, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    assert ended(writer) == 1
    assert capfd.readouterr().err == ""
    with Path("/dev/full").open("wb") as full:
        assert ended(full.fileno()) == 2
    assert "No space left on device" in capfd.readouterr().err
    with (tmp_path / "out").open("wb") as file:
        assert ended(file.fileno(), "ascii") == 0
    assert (tmp_path / "out").read_text().startswith(r"\xb1\xb1")


def test_numbers_of_options_are_finite_and_fit_into_64_bits(capsys):
    parser = console.Parser(prog="x")
    parser.add_argument("--n", type=int)
    parser.add_argument("--x", type=float)
    parser.add_argument("--list", type=console.numbers)
    assert parser.parse_args(["--n", "5", "--x", "1e-3", "--list", "1,2"]).list == (1, 2)
    for words in (["--n", "²"], ["--n", "9" * 5000], ["--n", str(2**63)], ["--x", "nan"], ["--x", "1e999"],
                  ["--list", f"1,{2**64}"], ["--n", "\x1b"], ["--n"]):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(words)
        err = capsys.readouterr().err
        assert stop.value.code == 2
        assert err.startswith("x: error: ")
        assert err.count("\n") == 1
        assert len(err) < 1200
        assert err.strip().isprintable()


def test_passwords_are_blotted_out():
    for text in (
        "http://u:geheim@h/x",
        "postgresql+psycopg2://u:ge@heim@h",
        "x?user=a&password=geheim&b=1",
        "s3://k:geheim@b",
    ):
        assert "heim" not in without_password(f"cannot reach {text!r}, try again")
    assert without_password("http://host:5000/a") == "http://host:5000/a"


@pytest.mark.parametrize("value", ["1", None, float("nan"), float("inf"), True, 1.5, 0, 10**400, 2**70, [1]])
def test_counts_are_whole_numbers_within_limits(value):
    with pytest.raises(InputError):
        check_at_least("n", value, 1)
    with pytest.raises(InputError):
        check_between("x", value, 0.5, 0.6)

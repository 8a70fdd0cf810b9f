"""The machine that computed something: its CPU, its BLAS and the versions, on which the last bits depend."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import persim

UNKNOWN, _BETWEEN = "unknown", " | "
_CPU_INFO = Path("/proc/cpuinfo")  # of Linux
_INSTRUCTIONS = ("avx", "fma", "amx", "asimd", "sve")  # the vector units of x86 and ARM, which choose the kernels
_PACKAGES = ("gymnasium", "mujoco", "numpy", "torch")


@cache
def machine(device: str = "cpu") -> dict[str, str]:
    """Describe this machine, once per process.

    Args:
        device: that does the work, ``cpu`` or ``cuda``.

    Returns:
        Texts by name: ``cpu`` (its model), ``instructions`` (its vector instruction sets), ``device`` (``cpu`` or the
        GPU's name), ``blas_numpy`` and ``blas_torch`` (library and version), ``kernels_torch`` (the instruction
        set that torch uses), and the versions of ``python``, ``persim``, ``gymnasium``, ``mujoco``, ``numpy`` and
        ``torch``. What cannot be found out is ``unknown``.
    """
    cpu, instructions = _cpu(_CPU_INFO.read_text() if _CPU_INFO.exists() else "")
    return {
        "cpu": cpu,
        "instructions": instructions,
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(device),
        "blas_numpy": _numpy_blas(np.show_config(mode="dicts")),
        "blas_torch": _torch_blas(torch.__config__.show()),
        "kernels_torch": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "persim": persim.__version__,
        **{name: version(name) for name in _PACKAGES},
    }


def joined(machines: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Describe all machines that had a part in a result: where they differ, the texts of all stand side by side.

    A machine that is not known, an empty mapping, gives ``unknown``; if none is known, the result is empty.
    """
    found = list(machines)
    names = dict.fromkeys(name for each in found for name in each)
    texts = {name: {part for each in found for part in each.get(name, UNKNOWN).split(_BETWEEN)} for name in names}
    return {name: _BETWEEN.join(sorted(parts)) for name, parts in texts.items()}


def _cpu(text: str) -> tuple[str, str]:
    """Model and instruction sets of the first processor in the text of ``/proc/cpuinfo``."""
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    about = {name.strip(): value.strip() for name, _, value in lines}
    flags = about.get("flags", about.get("Features", "")).split()
    wanted = sorted(flag for flag in flags if flag.startswith(_INSTRUCTIONS))
    name = about.get("model name") or platform.processor() or UNKNOWN
    if "cpu family" in about:  # a virtual machine may call every model by one name
        name += f" (family {about['cpu family']}, model {about.get('model', UNKNOWN)})"
    return name, " ".join(wanted) or UNKNOWN


def _numpy_blas(config: object) -> str:
    """Library and version in what ``numpy.show_config`` returns."""
    parts = config.get("Build Dependencies", {}) if isinstance(config, dict) else {}
    blas = parts.get("blas", {})
    return f"{blas.get('name', '')} {blas.get('version', '')}".strip() or UNKNOWN


def _torch_blas(config: str) -> str:
    """Library and version in what ``torch.__config__.show`` returns; it has the version of MKL alone."""
    name, number = re.search(r"BLAS_INFO=(\w+)", config), re.search(r"Math Kernel Library Version ([\d.]+)", config)
    return " ".join(found[1] for found in (name, number) if found) or UNKNOWN

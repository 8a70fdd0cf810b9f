"""Machines for tests: own network, processes, /tmp, home and host name, all in namespaces of this one. Needs root.

Nothing of it is left when the processes end; the host's own network, processes and files are never touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

HOME = "/mnt"  # exists on every Linux and is free: /root may hold the interpreter
SHARED = "/srv"  # the same folder on all machines, as NFS would give

# $1 is the machine's folder, $2 the shared one, $3 what must stay visible below /tmp; the rest is run.
_ENTER = f"""
set -e
folder=$1; shared=$2; visible=$3; shift 3
for path in $visible; do
  case $path in /tmp/*) mkdir -p "$folder$path"; mount --bind "$path" "$folder$path";; esac
done
hostname "$(basename "$folder")"
mount --bind "$shared" {SHARED}
mount --bind "$folder/home" {HOME}
sed 's|^\\(root:[^:]*:0:0:[^:]*\\):[^:]*:.*|\\1:{HOME}:/bin/bash|' /etc/passwd > "$folder/passwd"
mount --bind "$folder/passwd" /etc/passwd
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir /run/sshd
mount --rbind "$folder/tmp" /tmp
cd
exec "$@"
"""
_SSHD = ["-D", "-e", "-f", f"{HOME}/.sshd/config", "-o", f"HostKey={HOME}/.sshd/key", "-o", "PidFile=none"]
_SSHD_CONFIG = f"""
AuthorizedKeysFile {HOME}/.sshd/authorized
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
StrictModes no
"""


def missing() -> str:
    """What this machine lacks to make others; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root, to make namespaces"
    tools = ["ssh", "rsync", "ip", "unshare", "nsenter", "git", "curl"]
    absent = [name for name in tools if shutil.which(name) is None]
    if not Path("/usr/sbin/sshd").exists():
        absent.append("sshd (openssh-server)")
    if absent:
        return "needs " + ", ".join(absent)
    probe = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"needs namespaces ({done.stderr.strip()})" if done.returncode else ""


class Machine:
    """A folder that becomes a machine's home and /tmp, and the commands that run there."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = root / name
        self.home = self.folder / "home"
        self.shared = root / SHARED[1:]
        self.process: subprocess.Popen[bytes] | None = None
        for path in (self.home, self.folder / "tmp", self.shared):
            path.mkdir(parents=True, exist_ok=True)
        for name in (".profile", ".bashrc"):
            shutil.copy(f"/etc/skel/{name}", self.home)

    def command(self, *words: str, network: str) -> list[str]:
        """What runs words here, on a network of its own or (its process id given) on that of another machine."""
        join = ["nsenter", "-t", network, "-n", "--"] if network != "own" else []
        own = ["--net"] if network == "own" else []
        enter = ["unshare", *own, "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc"]
        # tmp is in the folder so that what must stay visible can be mounted below it first.
        visible = f"{sys.prefix} {sys.base_prefix}"
        return [*join, *enter, "bash", "-c", _ENTER, "enter", str(self.folder), str(self.shared), visible, *words]

    def boot(self, key: Path) -> None:
        """Starts sshd, which lets in the owner of the key."""
        (self.home / ".sshd").mkdir()
        (self.home / ".sshd" / "config").write_text(_SSHD_CONFIG)
        shutil.copy(key.with_suffix(".pub"), self.home / ".sshd" / "authorized")
        make_key(self.home / ".sshd" / "key")
        with (self.folder / "sshd.log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command("/usr/sbin/sshd", *_SSHD, network="own"),
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment(),
            )  # fmt: skip

    @property
    def pid(self) -> str:
        """Process id, as the host sees it, of the first process inside."""
        assert self.process is not None
        for _ in range(100):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if children:
                return children[0]
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def halt(self) -> None:
        """Ends everything that runs here."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def environment() -> dict[str, str]:
    """A fresh login's variables: nothing of the test run's own Ray, MLflow or Python settings."""
    return {"HOME": HOME, "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def make_key(path: Path) -> None:
    """A new ssh key pair without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def connect(one: Machine, other: Machine, addresses: tuple[str, str]) -> None:
    """A cable between two machines; each takes the other for its way out, as Ray asks for one."""
    link = ["ip", "link", "add", "eth0", "netns", one.pid, "type", "veth", "peer", "name", "eth0", "netns", other.pid]
    subprocess.run(link, check=True)
    for machine, (mine, theirs) in ((one, addresses), (other, addresses[::-1])):
        for words in (
            f"addr add {mine}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {theirs}",
        ):
            subprocess.run(["nsenter", "-t", machine.pid, "-n", "--", "ip", *words.split()], check=True)


def install(machine: Machine, path_of_code: str) -> None:
    """A virtual environment as the cluster files make it, from the packages that are installed here."""
    venv = machine.home / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    (inside / "packages.pth").write_text(f"{path_of_code}\n{sysconfig.get_path('purelib')}\n")
    for name, module in (("ray", "ray.scripts.scripts"), ("mlflow", "mlflow")):
        script = venv / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {HOME}/venv/bin/python -m {module} "$@"\n')
        script.chmod(0o755)

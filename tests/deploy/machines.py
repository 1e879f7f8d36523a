"""Machines made of namespaces. Each has its own network address, process tree, shared memory and home, and a real sshd.
To `ray up` they look like real computers; they only share this machine's disks, cores and users.

    bridge 10.199.0.1 (the "laptop", from which `ray up` runs)
       |--- 10.199.0.2 first machine
       |--- 10.199.0.3 second machine
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NETWORK = "10.199.0"
START_S = 30.0
_NEEDED = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "unshare": "util-linux",
}
_SSHD = """
Port 22
HostKey {base}/host_key
AuthorizedKeysFile .ssh/authorized_keys
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
AcceptEnv RLTF_*
Subsystem sftp internal-sftp
"""
# The home of root on every machine. The path is the same, but each machine has its own /tmp/ray.
HOME = "/tmp/ray/home"
# What a machine runs first: it hides the files that Ray shares between all processes of a host, then starts sshd.
_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for file in passwd hosts resolv.conf; do mount --bind {base}/$file /etc/$file; done
mkdir -p /tmp/ray && mount --bind {base}/tmp-ray /tmp/ray
hostname {name}
exec {sshd} -D -E {base}/sshd.log -f {base}/sshd_config
"""


class NotHereError(RuntimeError):
    """This host cannot run such machines. The message says what is missing."""


@dataclass(frozen=True)
class Machine:
    """One machine: its address, and its home as this host sees it. The machine itself sees it as `HOME`."""

    name: str
    address: str
    home: Path


@dataclass(frozen=True)
class Laptop:
    """The user's computer: in the network of the machines, with its own home."""

    namespace: str
    home: Path

    @property
    def key(self) -> Path:
        return self.home / ".ssh" / "id_ed25519"

    def run(
        self, command: Sequence[str], timeout_s: float, cwd: Path = ROOT, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; its output includes stderr. Raises TimeoutExpired."""
        return subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            cwd=cwd,
            env=_environment(self.home) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ssh(self, machine: Machine, command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run `command` in a login shell on the machine, like `ray attach`."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        remote = f"bash --login -c {_quoted(command)}"
        return self.run(["ssh", *options, "-i", str(self.key), f"root@{machine.address}", remote], timeout_s)


def install() -> None:
    """Install what is missing with apt-get. Raises NotHereError if that fails."""
    if os.geteuid() != 0:
        raise NotHereError("network namespaces and sshd on port 22 need root")
    missing = [package for tool, package in _NEEDED.items() if shutil.which(tool, path=_search_path()) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise NotHereError(f"{', '.join(missing)} are not installed, and there is no apt-get")
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *missing]):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotHereError(f"apt-get install {' '.join(missing)}: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def machines(names: Sequence[str], base: Path) -> Iterator[tuple[Laptop, list[Machine]]]:
    """Start the laptop and the machines, and wait until they answer ssh. They stop at the end of the block.

    Raises:
        NotHereError: this host cannot run them.
    """
    install()
    with contextlib.ExitStack() as stack:
        laptop = _laptop(stack, base / "laptop")
        made = [_machine(stack, laptop, index, name, base / name) for index, name in enumerate(names, start=2)]
        for machine in made:
            _await_ssh(laptop, machine)
        yield laptop, made


def _laptop(stack: contextlib.ExitStack, home: Path) -> Laptop:
    laptop = Laptop(f"rltf{os.getpid()}", home)
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(laptop.key))
    _namespace(stack, laptop.namespace)
    inside = ("ip", "-n", laptop.namespace)
    _run(*inside, "link", "add", "bridge", "type", "bridge")
    _run(*inside, "addr", "add", f"{NETWORK}.1/24", "dev", "bridge")
    for device in ("lo", "bridge"):
        _run(*inside, "link", "set", device, "up")
    return laptop


def _machine(stack: contextlib.ExitStack, laptop: Laptop, index: int, name: str, base: Path) -> Machine:
    machine = Machine(name, f"{NETWORK}.{index}", base / "tmp-ray" / "home")
    namespace, cable = f"{laptop.namespace}-{index}", f"cable{index}"
    _namespace(stack, namespace)
    _run("ip", "-n", laptop.namespace, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _run("ip", "-n", laptop.namespace, "link", "set", cable, "master", "bridge", "up")
    _run("ip", "-n", namespace, "addr", "add", f"{machine.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _run("ip", "-n", namespace, "link", "set", device, "up")
    # Ray takes the address that the machine would use to reach the internet.
    _run("ip", "-n", namespace, "route", "add", "default", "via", f"{NETWORK}.1")
    _furnish(machine, base, laptop.key.with_suffix(".pub").read_text())
    sshd = shutil.which("sshd", path=_search_path()) or "sshd"
    boot = _BOOT.format(base=base, name=name, sshd=sshd)
    command = ["ip", "netns", "exec", namespace, "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork"]
    process = subprocess.Popen(
        [*command, "--kill-child", "--mount-proc", "sh", "-c", boot],
        env=_environment(Path(HOME)),
        stdout=(base / "boot.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    stack.callback(process.wait, timeout=START_S)
    stack.callback(process.kill)
    return machine


def _furnish(machine: Machine, base: Path, public_key: str) -> None:
    """Write the machine's files: keys, a passwd with root's home, and the environment that `make setup` created."""
    (machine.home / ".ssh").mkdir(parents=True, mode=0o700)
    (machine.home / ".ssh" / "authorized_keys").write_text(public_key)
    # The Python that .venv was created with, on PATH as if an administrator had put it there.
    interpreter = Path(sys.base_prefix) / "bin"
    (machine.home / ".profile").write_text(f"export PATH={interpreter}:$PATH\n")
    (machine.home / "rltf").mkdir()
    (machine.home / "rltf" / ".venv").symlink_to(Path(sys.prefix))
    root = pwd.getpwuid(0)
    passwd = Path("/etc/passwd").read_text().replace(f":{root.pw_dir}:", f":{HOME}:", 1)
    (base / "passwd").write_text(passwd)
    (base / "hosts").write_text(f"127.0.0.1 localhost\n{machine.address} {machine.name}\n")
    (base / "resolv.conf").write_text("")  # this network has no name server
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / "host_key"))
    (base / "sshd_config").write_text(_SSHD.format(base=base))
    Path("/run/sshd").mkdir(exist_ok=True)


def _namespace(stack: contextlib.ExitStack, name: str) -> None:
    _run("ip", "netns", "add", name)
    stack.callback(_run, "ip", "netns", "delete", name)


def _await_ssh(laptop: Laptop, machine: Machine) -> None:
    deadline = time.monotonic() + START_S
    while (answer := laptop.ssh(machine, "true", START_S)).returncode != 0:
        if time.monotonic() > deadline:
            boot = (machine.home.parents[1] / "boot.log").read_text()
            raise NotHereError(f"{machine.name} does not answer ssh: {answer.stdout.strip()} {boot.strip()}")
        time.sleep(0.2)


def _environment(home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RLTF_", "SSH_"))}
    return {**inherited, "HOME": str(home), "PATH": _search_path(), "RAY_TMPDIR": str(home), "USER": "root"}


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotHereError(f"{' '.join(command)}: {done.stderr.strip()}")


def _quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"

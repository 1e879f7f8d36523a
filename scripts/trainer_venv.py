"""Make the environment of a trainer whose versions do not go with the locks: `python -m scripts.trainer_venv NAME`.

It prints the environment's interpreter, `.venv/trainers/NAME/bin/python`. The environment has what
`requirements/trainers/NAME.txt` lists, and takes everything else, such as torch, from the environment that runs this
script. So it is small, made in seconds, and deleted along with `.venv`.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from rltf.entry import exit_status
from rltf.errors import UserError

ROOT = Path(__file__).parents[1]
LOCKS = {path.stem: path for path in sorted((ROOT / "requirements" / "trainers").glob("*.txt"))}


def make(name: str) -> Path:
    """The interpreter of the environment `name`, which is made unless it is there and up to date.

    Raises:
        UserError: uv cannot install the packages; the message ends with what it says.
    """
    folder = ROOT / ".venv" / "trainers" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in several processes ask for the same one
        return _made(name, folder)


def _made(name: str, folder: Path) -> Path:
    python, stamp = folder / "bin" / "python", folder / ".requirements"
    site_packages = sysconfig.get_path("purelib")
    wanted = f"{sys.version}\n{site_packages}\n{LOCKS[name].read_text()}"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _uv("venv", "--python", sys.executable, str(folder))
    (own,) = folder.glob("lib/python*/site-packages")
    # Python looks into an environment's own packages first. `addsitedir` also follows the `.pth` files there.
    (own / "rltf-base.pth").write_text(f"import site; site.addsitedir({site_packages!r})\n")
    sources = subprocess.run(
        [sys.executable, ROOT / "scripts" / "pip_sources.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    options = ("--no-deps", "--index-strategy", "unsafe-best-match", "--python", str(python))
    _uv("pip", "install", *options, *sources, "-r", str(LOCKS[name]))
    stamp.write_text(wanted)
    return python


def _uv(*words: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run([uv, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"cannot make the environment (uv {words[0]}): {done.stderr.strip()}")


def main(options: argparse.Namespace) -> None:
    """Make it, and print its interpreter."""
    print(make(options.name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the environment of a trainer on top of this one.")
    parser.add_argument("name", choices=LOCKS, metavar="NAME", help=", ".join(LOCKS))
    sys.exit(exit_status(main, parser.parse_args()))

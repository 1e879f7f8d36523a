"""Print pip's configured package sources as options for `uv pip install`, one per line.

uv installs the locks several times faster than pip but reads none of pip's configuration.
"""

import ast
import subprocess
import sys

OPTIONS = {
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "no-index": "--no-index",
    "trusted-host": "--allow-insecure-host",
}


def main() -> None:
    """Ask pip itself, which knows all its files and variables. Later lines override earlier ones."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    values: dict[str, str] = {}
    scopes = ("global", "install", ":env:")
    for scope in scopes:
        for line in listing.stdout.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{scope}."):
                values[name.removeprefix(f"{scope}.")] = ast.literal_eval(value)
    for key, option in OPTIONS.items():
        if key == "no-index":
            if values.get(key, "").lower() in ("1", "true", "yes", "on"):
                print(option)
            continue
        for value in values.get(key, "").split():
            print(f"{option}={value}")


if __name__ == "__main__":
    main()

"""Install the peers that benchmarks measure against: ``python -m benchmarks.peers.install``.

Each gets a virtual environment of its own in the folder OUT, since what they require excludes one
another; nothing of ours is installed there, nor anything of theirs beside ours.
"""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import click

FOLDER = Path("build/peers")
VERSIONS = {"astro-emulators-toolkit": "0.1.0", "transformer-payne": "0.10", "rvspecfit": "0.9.0"}


def python_of(peer: str, folder: Path = FOLDER) -> Path:
    """Return the interpreter of a peer's environment, which may not exist yet."""
    return folder / peer / "bin" / "python"


@click.command(help=__doc__)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path), default=FOLDER)
@click.option("--peer", "peers", multiple=True, type=click.Choice(list(VERSIONS)),
              help="One of them alone; may be repeated.")
def main(out: Path, peers: tuple[str, ...]) -> None:
    """Make the environments, anew where they exist."""
    for peer in peers or VERSIONS:
        click.echo(f"{peer} {VERSIONS[peer]}")
        venv.create(out / peer, clear=True, with_pip=True)
        subprocess.run([python_of(peer, out), "-m", "pip", "install", "--quiet",
                        "--disable-pip-version-check", f"{peer}=={VERSIONS[peer]}"], check=True)


if __name__ == "__main__":
    main()

"""Whole files or none: atomic writes, checksums and tensors that are what they were saved as.

A folder of tensors holds a JSON file and ``weights-HASH.safetensors``, perhaps
``errors-HASH.safetensors`` too; the first holds the SHA-256 of the others, checked at every
load.  New tensors get a new name, so that a save that is cut short leaves the old set whole.
No file can carry code.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed onto it when the block ends well.

    The file is on disk (fsync) before it takes its name, so a kill or a full disk leaves
    what was there before.  The temporary name keeps the suffix, since writers choose the
    format by it.

    Examples
    --------
    >>> with atomic_write("table.ecsv") as temporary:               # doctest: +SKIP
    ...     table.write(temporary)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    temporary.unlink()  # astropy and h5py want to create the file themselves
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def shipped_folder(kind: str) -> Path:
    """Return a folder of ``data/``, such as ``emulators``, wherever it was installed."""
    return Path(str(resources.files("emulators.data"))) / kind


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_tensors(
    folder: Path, tensors: dict[str, Tensor], *, what: str = "weights"
) -> dict[str, str]:
    """Write tensors under a name made from their hash; return ``file`` and ``sha256``.

    In 16 bits where that loses nothing of any float32 tensor: whoever rounded them wants it so.
    """
    import torch
    from safetensors.torch import save

    tensors = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    single = {n: t for n, t in tensors.items() if t.dtype == torch.float32}
    if all(torch.equal(t.half().float(), t) for t in single.values()):
        tensors |= {n: t.half() for n, t in single.items()}
    content = save(tensors)
    digest = hashlib.sha256(content).hexdigest()
    name = f"{what}-{digest[:8]}.safetensors"
    with atomic_write(folder / name) as temporary:
        temporary.write_bytes(content)
    return {"file": name, "sha256": digest}


def remove_others(folder: Path, *names: str) -> None:
    """Remove the tensors that those called `names` have replaced."""
    for what in ("weights", "errors"):
        for old in folder.glob(f"{what}-*.safetensors"):
            if old.name not in names:
                old.unlink()


def read_description(path: Path, form: str, version: int) -> dict[str, Any]:
    """Read a JSON file that must be of a form and version.

    Raises
    ------
    ValueError
        When it is not.
    """
    try:
        state = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(state, dict) or state.get("format") != form:
        raise ValueError(f"'{path}' does not describe a {form}")
    if state.get("format_version") != version:
        raise ValueError(
            f"'{path.parent}' has format version {state.get('format_version')}, this release "
            f"reads {version}"
        )
    return state


def read_tensors(folder: Path, weights: Any) -> dict[str, Tensor]:
    """Read tensors once, and use only bytes that have the promised hash.

    `weights` is what :func:`write_tensors` returned.

    Raises
    ------
    ValueError
        When they are missing, damaged, or not in the folder itself.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        name, expected = weights["file"], weights["sha256"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"'{folder}' names no weights file") from error
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(
            f"'{folder}' names the weights file {name!r}; it must lie in the folder itself"
        )
    path = folder / name
    if not path.is_file():
        raise ValueError(f"'{path}' is missing: the emulator is incomplete")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise ValueError(
            f"'{path}' is damaged: its SHA-256 is {found[:12]}..., but it was saved with "
            f"{str(expected)[:12]}...; fetch the emulator again"
        )
    try:
        return {n: t.float() if t.dtype == torch.float16 else t for n, t in load(content).items()}
    except SafetensorError as error:
        raise ValueError(f"'{path}' is not a safetensors file: {error}") from error

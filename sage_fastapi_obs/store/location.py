"""Where a store's file is, and whether a folder may be used for it."""

import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sage_fastapi_obs.settings import StoreSettings
from sage_fastapi_obs.store.store_files import HAS_LOCKS

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    ("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs")
)
"""File systems of several machines, on which locks do not always hold."""
_LOCAL_FUSE = frozenset(("fuse.fuse-overlayfs",))
_SUFFIX = ".v3.sqlite3"
"""With the version of the schema, so that two versions of this package do not meet in one file."""
_NAME_LETTERS = 40


class StoreKey(NamedTuple):
    """Whose store it is, besides that of the user."""

    service: str
    """Name of the service."""
    app: str
    """Its working directory, so that two services without a name have two stores."""


def store_key(service: str) -> StoreKey:
    """Return the key for a service that runs in the working directory."""
    try:
        return StoreKey(service, str(Path.cwd()))
    except OSError:
        # The directory has been removed.
        return StoreKey(service, "")


class UnusableFolderError(OSError):
    """A folder cannot hold the store; its text says why."""


def find_file(settings: StoreSettings, key: StoreKey) -> Path:
    """Return the path of a store's file, which may not exist yet, in a folder that may be used.

    Creates the folder. Raises `UnusableFolderError` if there is none.
    """
    reasons = []
    for base in _bases(settings):
        try:
            return private_folder(base) / file_name(key)
        except OSError as reason:
            reasons.append(str(reason))
    raise UnusableFolderError("; ".join(reasons) or "this system has no private folders")


def socket_prefix(settings: StoreSettings, key: StoreKey) -> Path:
    """Return folder and beginning of the name of the sockets of a service's processes; short, as their paths have to be.

    Raises `UnusableFolderError` as `find_file` does.
    """
    return prefix_of(find_file(settings, key))


def prefix_of(file: Path) -> Path:
    """Return the prefix of the sockets of the processes that write the file of a store."""
    return file.with_name(file.name.removesuffix(_SUFFIX).rpartition("-")[2])


def private_files(settings: StoreSettings, pattern: str) -> list[Path]:
    """Return all files of this user with such names."""
    return [path for base in _bases(settings) for path in _folder_of(base).glob(pattern)]


def stored_files(settings: StoreSettings, service: str | None = None) -> list[Path]:
    """Return the files of all stores of this user, or of a service's, the one last written to first."""
    pattern = f"{'*' if service is None else _letters(service)}-*{_SUFFIX}"
    found = [path for path in private_files(settings, pattern) if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def private_folder(base: Path) -> Path:
    """Return the folder below `base` that nobody else can look into; creates it."""
    base.mkdir(parents=True, exist_ok=True)
    if (kind := _file_system(base)) in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE):
        raise UnusableFolderError(f"{base} is on {kind}, where the locks of several processes do not always hold")
    folder = _folder_of(base)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise UnusableFolderError(f"{folder} is not a folder")
    if found.st_uid != os.geteuid():
        raise UnusableFolderError(f"{folder} belongs to another user")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UnusableFolderError(f"{folder} cannot be written to")
    return folder


def file_name(key: StoreKey) -> str:
    """Return a name that no other key has."""
    return f"{_letters(key.service)}-{_digest(key)}{_SUFFIX}"


def _digest(key: StoreKey) -> str:
    return hashlib.sha256("\0".join(key).encode(errors="surrogatepass")).hexdigest()[:16]


def _letters(service: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", service)[:_NAME_LETTERS]


def _bases(settings: StoreSettings) -> Iterator[Path]:
    if not (HAS_LOCKS and hasattr(os, "geteuid")):
        # Windows, which can neither keep others out like this nor rename a file that is open.
        return
    if settings.path is not None:
        yield Path(settings.path)
        return
    if (state := os.environ.get("XDG_STATE_HOME", "")).startswith("/"):
        yield Path(state)
    else:
        try:
            yield Path.home() / ".local" / "state"
        except RuntimeError:
            # A user without an entry and without HOME, as in containers.
            pass
    yield Path(tempfile.gettempdir())


def _folder_of(base: Path) -> Path:
    return base / f"sage-obs-{os.geteuid()}"


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on; empty where the system does not tell."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(" - ")[2].split(" ")[0] for line in mounts if line.split(" ")[2] == number), "")

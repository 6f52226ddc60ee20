"""Where the file of a store is, and which folders are refused."""

import os
import stat
from pathlib import Path

import pytest
from stored import KEY, Said, file_of, new_store, opened, request

from sage_fastapi_obs.settings import StoreSettings
from sage_fastapi_obs.store import location
from sage_fastapi_obs.store.location import StoreKey, UnusableFolderError, file_name, find_file, private_folder, stored_files
from sage_fastapi_obs.store.records import RequestQuery


def test_files_are_private(tmp_path: Path) -> None:
    """Nobody else can look into the folder, whatever the umask was, and none of its files can be read by others."""
    before = os.umask(0)
    try:
        with opened(tmp_path) as store:
            store.keep(request())
            assert store.flush(60)
    finally:
        os.umask(before)
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_folder_that_was_too_open_is_closed(tmp_path: Path) -> None:
    """A folder of ours that others can look into gets its mode back."""
    folder = private_folder(tmp_path)
    folder.chmod(0o777)
    assert stat.S_IMODE(private_folder(tmp_path).stat().st_mode) == 0o700


def test_two_keys_never_share_a_file() -> None:
    """Service and app together name the file, however odd they are; and the name is short and plain."""
    keys = [
        ("a", "b"),
        ("a", "c"),
        ("b", "b"),
        ("a\0b", ""),
        ("../x", "/"),
        ("x" * 500, "y"),
        ("x" * 501, "y"),
        ("\ud800", "ü"),
        ("", ""),
    ]
    names = {file_name(StoreKey(*key)) for key in keys}
    assert len(names) == len(keys)
    assert all(len(name) < 100 and name.isascii() and "/" not in name for name in names)


def link(folder: Path, elsewhere: Path) -> None:
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("put", "said"), [(lambda folder, _: folder.write_text("x"), "File exists|not a folder"), (link, "not a folder")]
)
def test_what_is_not_a_folder_of_ours_is_refused(tmp_path: Path, put: object, said: str) -> None:
    """A link or a file in the place of our folder is not followed; the store is in memory then, and says so once."""
    put(location._folder_of(tmp_path), tmp_path / "elsewhere")
    with pytest.raises((UnusableFolderError, OSError), match=said):
        private_folder(tmp_path)
    log = Said()
    store = new_store(tmp_path, log=log)
    store.keep(request(path="/a"))
    assert [each.request.path for each in store.reader.list(RequestQuery()).requests] == ["/a"]
    assert len(log) == 1
    store.close(300)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Whoever made the folder first, as anybody can in a folder for temporary files, gets nothing to read."""
    folder = private_folder(tmp_path)
    os.chown(folder, 12345, 12345)
    with pytest.raises(UnusableFolderError, match="another user"):
        private_folder(tmp_path)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "ext4", "fuse.fuse-overlayfs", "tmpfs"])
def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What the system says of the folder's device decides."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(f"1 0 999:1 / /x rw - nfs s rw\n2 1 {number} / /y\\040z rw shared:1 - {kind} server:/ rw\n")
    monkeypatch.setattr(location, "_MOUNTS", mounts)
    settings = StoreSettings(path=str(tmp_path / "s"))
    if kind in ("ext4", "fuse.fuse-overlayfs", "tmpfs"):
        assert find_file(settings, KEY).parent.is_dir()
    else:
        with pytest.raises(UnusableFolderError, match=kind):
            find_file(settings, KEY)


def test_the_folder_for_state_comes_before_that_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default files are where state belongs; where nothing can be created there, among temporary files."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    settings = StoreSettings()
    assert find_file(settings, KEY).is_relative_to(tmp_path / "state")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "x"))
    assert find_file(settings, KEY).is_relative_to(tmp_path / "tmp")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_file(settings, KEY).is_relative_to(tmp_path / "home/.local/state")


def test_commands_find_the_files(tmp_path: Path) -> None:
    """All stores of a user, or those of a service, the one last written to first."""
    settings = StoreSettings(path=str(tmp_path))
    assert stored_files(settings) == []
    keys = [StoreKey("shop", "a"), StoreKey("shop", "b"), StoreKey("my shop", "a")]
    for age, key in enumerate(keys):
        with opened(tmp_path, key=key) as store:
            store.keep(request())
        os.utime(file_of(tmp_path, key), (1000 - age, 1000 - age))
    assert stored_files(settings) == [file_of(tmp_path, key) for key in keys]
    assert stored_files(settings, "shop") == [file_of(tmp_path, key) for key in keys[:2]]
    assert stored_files(settings, "my shop") == [file_of(tmp_path, keys[2])]


def test_a_folder_that_was_deleted_comes_again(tmp_path: Path) -> None:
    """Who tidies up temporary files takes the history, and nothing of what comes after."""
    with opened(tmp_path) as store:
        store.keep(request(path="/a"))
        assert store.flush(60)
        folder = file_of(tmp_path).parent
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        store.keep(request(path="/b"))
        assert [each.request.path for each in store.reader.list(RequestQuery()).requests] == ["/b"]

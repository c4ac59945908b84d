"""The folder in which an archive becomes a data directory, and the name under which leaderl finds that."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from chefha_core.backup.archive import About
from chefha_core.model import EtcdView
from chefha_core.parts import postgres_control as control_file
from chefha_core.parts import postmaster
from chefha_core.parts.postgres_clone import SPARE
from chefha_core.parts.postgres_restore import Target, make_ready
from chefha_core.parts.postgres_tools import Places, sync_directory
from chefha_core.settings import Settings
from chefha_core.verbs.reach import VerbError

#: marks a folder as one of an attempt, which the next one may clear
MARK = "chefha-restore"
_NOTHING = "nothing was changed"


class Staging:
    """A folder of this verb's own while the block lasts; what another attempt left in it is removed first."""

    def __init__(self, places: Places, folder: str, view: EtcdView) -> None:
        self.places = places
        self.folder = Path(folder).absolute() if folder else places.home / "restore"
        self._default = not folder
        assert view.config is not None
        self._current = view.config.system_id
        self._lock = -1

    @property
    def data(self) -> Path:
        """The data directory in the making."""
        return self.folder / "data"

    def __enter__(self) -> Staging:
        self._hold()
        try:
            self._clear_former()
            self._open_folder()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._empty()
        finally:
            os.close(self._lock)

    def _hold(self) -> None:
        self._lock = os.open(self.places.home / ".restore.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise VerbError(f"restore: another one is under way on this node; wait for its end; {_NOTHING}") from None

    def _clear_former(self) -> None:
        """Restored data that nobody asked for any more: its attempt was killed, or refused."""
        waiting = control_file.system_id(self.places.restored)
        if waiting and waiting == self._current:
            raise VerbError(
                "restore: the data of the restoration before is the cluster's and not in place yet; leaderl puts it "
                f"there, see cluster-status; {_NOTHING}"
            )
        self.withdraw()

    def _open_folder(self) -> None:
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise VerbError(f"restore: the staging directory {folder} is not a directory; name another one; {_NOTHING}")
        with self._explained():
            if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
                raise VerbError(
                    f"restore: the staging directory {folder} is not empty; empty it or name another one with "
                    f"--staging-dir; {_NOTHING}"
                )
            parent = next(path for path in (folder, *folder.parents) if path.exists())
            if parent.stat().st_dev != self.places.home.stat().st_dev:
                raise VerbError(
                    f"restore: the staging directory {folder} is on another file system than {self.places.home}, so "
                    f"the data could not be put in place at once; name one below {self.places.home}, or leave "
                    f"--staging-dir out; {_NOTHING}"
                )
            self._check_reachable()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own(folder)
            (folder / MARK).touch()
            postmaster.kill_all(self.data, time.monotonic() + 10.0)  # the server of an attempt that was killed
            self._empty_data()
            self.data.mkdir(mode=0o700)
            self._own(self.data)

    def _check_reachable(self) -> None:
        owner = pwd.getpwnam(self.places.user).pw_uid
        for path in (path for path in self.folder.parents if path.exists()):
            found = path.stat()
            if not found.st_mode & (0o100 if found.st_uid == owner else 0o001):
                raise VerbError(
                    f"restore: PostgreSQL's user cannot get through {path} to the staging directory {self.folder}; "
                    f"name one below {self.places.home}, or leave --staging-dir out; {_NOTHING}"
                )

    def check_room(self, about: About) -> None:
        """VerbError if the archive's data does not fit beside the present one."""
        times = 2 if about.incremental_of else 1  # the parts, and what is put together from them
        free, needed = shutil.disk_usage(self.folder).free, times * about.size + SPARE
        if free < needed:
            raise VerbError(
                f"restore: no room in {self.folder}: {needed >> 20} MiB needed beside the present data, "
                f"{free >> 20} MiB free; make room; {_NOTHING}"
            )

    def make_ready(
        self, settings: Settings, timeline: int, target: Target, until: float, on_replay: Callable[[], None]
    ) -> str:
        """The data directory in the making is complete, under the name by which leaderl finds it; its identifier."""
        left = max(1.0, until - time.monotonic())
        system_id = make_ready(self.places, settings, self.data, timeline, target, left, on_replay)
        with self._explained():
            self.data.rename(self.places.restored)
            sync_directory(self.places.home)
        return system_id

    def withdraw(self) -> None:
        """Nobody will put the restored data in place: it goes, from leaderl's eyes at once."""
        unwanted = self.places.home / f"{self.places.data.name}.unwanted"
        with self._explained():
            shutil.rmtree(unwanted, ignore_errors=True)  # of an attempt that was killed
            if self.places.restored.exists():
                self.places.restored.rename(unwanted)
                shutil.rmtree(unwanted)

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, self.places.user, self.places.user)

    def _empty_data(self) -> None:
        for path in self.folder.iterdir():
            if path.name != MARK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _empty(self) -> None:
        with contextlib.suppress(OSError):
            self._empty_data()
            (self.folder / MARK).unlink()
            if self._default:
                self.folder.rmdir()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VerbError(f"restore: {error.filename}: {error.strerror}; {_NOTHING}") from None

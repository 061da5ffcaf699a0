"""The file of a backup: a tar, packed by its name's ending, whose last entry lists all others.

    backup.json    {"format": 1, "made": ..., "home": ..., "versions": {...},
                    "files": {path: {"size": ..., "sha256": ...}}}

The list comes last, so a file that was cut off has none and is refused.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

import pyarrow as pa
from pydantic import Field

from orpo_pipeline.stages import sync
from schemas.errors import EnvironmentFault, UserError
from schemas.record import Record

INDEX = "backup.json"
FORMAT: Literal[1] = 1
CODECS = {".gz": "gzip", ".zst": "zstd", ".tar": None}
ENDINGS = (".tar", ".tar.gz", ".tar.zst")
CHUNK = 1 << 20


class StoredFile(Record):
    """A file of the backup."""

    size: int
    sha256: str


class Index(Record):
    """What a backup holds, and of what it was made."""

    format: Literal[1] = FORMAT
    made: str
    """When, in UTC."""
    home: str
    """The state folder that it is of."""
    versions: dict[str, str]
    """Of this project and of those whose databases are in it."""
    files: dict[str, StoredFile] = Field(default_factory=dict)


def codec_of(file: Path) -> str | None:
    """How the file is packed; UserError for a name that does not say."""
    if not file.name.endswith(ENDINGS):
        raise UserError(
            f"The backup {file} has no name that says how it is packed.",
            f"a name that ends with {', '.join(ENDINGS)}.",
            "Name it so; .tar.zst is fast and small.",
        )
    return CODECS[file.suffix]


class Writer:
    """Adds files, and remembers what was really written."""

    def __init__(self, tar: tarfile.TarFile, index: Index) -> None:
        self.tar = tar
        self.index = index
        self._first: dict[tuple[int, int], str] = {}

    def add(self, path: Path, name: str) -> None:
        """Add a file; one that has gone meanwhile is left out, a link to one that is there is kept.

        Its size is that of now: what is appended while it is read belongs to the next backup.
        """
        try:
            with path.open("rb") as file:
                self._add_open(file, name)
        except FileNotFoundError:
            return

    def _add_open(self, file: BinaryIO, name: str) -> None:
        status = os.fstat(file.fileno())
        entry = tarfile.TarInfo(name)
        entry.mtime, entry.mode = int(status.st_mtime), status.st_mode & 0o777
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._first:  # snapshots share the files of sources
            entry.type, entry.linkname = tarfile.LNKTYPE, self._first[key]
            self.tar.addfile(entry)
            self.index.files[name] = self.index.files[entry.linkname]
            return
        entry.size = status.st_size
        reader = _Hashing(file, status.st_size)
        self.tar.addfile(entry, reader)  # type: ignore[arg-type]
        self.index.files[name] = StoredFile(size=entry.size, sha256=reader.digest.hexdigest())
        self._first[key] = name

    def finish(self) -> None:
        """Write the list of everything."""
        text = self.index.model_dump_json(indent=1).encode()
        entry = tarfile.TarInfo(INDEX)
        entry.size, entry.mode = len(text), 0o600
        self.tar.addfile(entry, io.BytesIO(text))


class _Hashing:
    """Reads so many bytes of a file and hashes them; what has been cut off meanwhile is zeros."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left))
        data += b"\0" * (min(size, self.left) - len(data))
        self.left -= len(data)
        self.digest.update(data)
        return data


@contextmanager
def new_archive(file: Path, index: Index) -> Iterator[Writer]:
    """A backup to fill: under a temporary name, readable by this user alone, renamed at the end."""
    codec = codec_of(file)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with ExitStack() as open_files:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            raw = open_files.enter_context(os.fdopen(descriptor, "wb"))
            packed: Any = raw
            if codec:
                packed = open_files.enter_context(pa.output_stream(raw, compression=codec))
            with tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                writer = Writer(tar, index)
                yield writer
                writer.finish()
        sync(partial)
        partial.rename(file)
        sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)


def unpack(file: Path, into: Path) -> Index:
    """Write everything below `into` and check it against the list.

    Raises UserError for a file that is no backup, EnvironmentFault for one that is damaged.
    """
    codec = codec_of(file)
    found: dict[str, StoredFile] = {}
    index: Index | None = None
    try:
        with (
            pa.input_stream(str(file), compression=codec) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for entry in tar:
                if entry.name == INDEX:
                    index = _read_index(tar, entry, file)
                else:
                    _unpack_entry(tar, entry, into, found)
    except (tarfile.TarError, EOFError, ValueError, pa.ArrowException) as error:
        raise _damaged(file, str(error)) from error
    except OSError as error:
        if error.errno is None:  # Arrow's, of packed bytes that are none
            raise _damaged(file, str(error)) from error
        raise
    if index is None:
        raise _damaged(file, f"it ends without {INDEX}")
    for name in index.files.keys() | found.keys():
        if index.files.get(name) != found.get(name):
            raise _damaged(file, f"{name} is not as it was written")
    return index


def _unpack_entry(
    tar: tarfile.TarFile, entry: tarfile.TarInfo, into: Path, found: dict[str, StoredFile]
) -> None:
    target = _inside(entry.name, into)
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.islnk() and entry.linkname in found:
        os.link(_inside(entry.linkname, into), target)
        found[entry.name] = found[entry.linkname]
        return
    content = tar.extractfile(entry) if entry.isreg() else None
    if content is None:
        raise ValueError(f"{entry.name} is neither a file nor a link to one of the backup")
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as output:
        while chunk := content.read(CHUNK):
            output.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        os.fchmod(output.fileno(), entry.mode & 0o777)
    os.utime(target, (entry.mtime, entry.mtime))
    sync(target)
    found[entry.name] = StoredFile(size=size, sha256=digest.hexdigest())


def _inside(name: str, folder: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the folder")
    return folder / path


def _read_index(tar: tarfile.TarFile, entry: tarfile.TarInfo, file: Path) -> Index:
    content = tar.extractfile(entry)
    text = content.read() if content else b""
    try:
        return Index.model_validate_json(text)
    except ValueError as error:
        raise UserError(
            f"{file} is no backup that this release can read: {' '.join(str(error).split())[:200]}",
            f"a file that `orpo-pipeline backup` wrote (format {FORMAT}).",
            "Name such a file, or use the release that wrote it.",
        ) from error


def _damaged(file: Path, reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"The backup {file} is damaged or is none: {reason}.",
        "a whole file that `orpo-pipeline backup` wrote.",
        "Use another backup. Nothing was restored.",
    )

"""An executable out of an official release archive, its checksum verified."""

import hashlib
import platform
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import requests

from waybill.progress import download_progress

GITHUB = "https://github.com"
PLATFORMS = frozenset({"linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64"})
CHUNK = 256 * 1024
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class DownloadError(Exception):
    """Says in one sentence why a release could not be had."""


@dataclass(frozen=True)
class Release:
    """Where a project publishes what we need. Every name may contain {version}, {os} and {arch}."""

    repository: str
    version: str
    archive: str
    checksums: str
    """The asset with the archive's sha256: `sha256sum` lines, or the digest alone."""
    executable: str
    """The path inside the archive."""


def this_platform() -> str:
    """The operating system and architecture as Go and both projects name them, such as `linux-amd64`."""
    machine = platform.machine().lower()
    return f"{sys.platform}-{ARCHITECTURES.get(machine, machine)}"


def download(release: Release, folder: Path, *, base_url: str = GITHUB, timeout: float = 5.0) -> Path:
    """Fetch a release into `folder`, verify it, and return the path of the executable in it.

    The digest comes from the same server as the archive: it finds a broken download, and HTTPS vouches
    for the server. `timeout` is in seconds, for the connection and then for each silence of the server.
    Raises DownloadError.
    """
    if this_platform() not in PLATFORMS:
        raise DownloadError(f"there is no release for {this_platform()}")
    names = dict(zip(("os", "arch"), this_platform().split("-"), strict=True), version=release.version)
    archive_name = release.archive.format(**names)
    assets = f"{base_url}/{release.repository}/releases/download/v{release.version}"
    try:
        digests = _text(f"{assets}/{release.checksums.format(**names)}", timeout)
        expected = _digest_of(archive_name, digests)
        archive = folder / archive_name
        actual = _save(f"{assets}/{archive_name}", archive, timeout)
    except requests.RequestException as error:
        raise DownloadError(_in_words(error, assets)) from error
    if actual != expected:
        raise DownloadError(f"{archive_name} has the sha256 {actual}, but {expected} was published for it")
    return _unpack(archive, release.executable.format(**names), folder)


def _text(url: str, timeout: float) -> str:
    response = requests.get(url, timeout=timeout)
    response.raise_for_status()
    return response.text


def _digest_of(archive_name: str, checksums: str) -> str:
    for line in checksums.splitlines():
        digest, _, name = line.strip().partition(" ")
        if len(digest) == 64 and name.strip(" *") in ("", archive_name):
            return digest.lower()
    raise DownloadError(f"the published checksums do not name {archive_name}")


def _save(url: str, target: Path, timeout: float) -> str:
    """Stream `url` into a file and return its sha256."""
    digest = hashlib.sha256()
    with requests.get(url, timeout=timeout, stream=True) as response, target.open("wb") as file:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0)) or None
        with download_progress(f"downloading {target.name}") as update:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                update(file.tell(), total)
    return digest.hexdigest()


def _in_words(error: requests.RequestException, url: str) -> str:
    match error:
        case requests.HTTPError():
            return f"{error.response.url} answered {error.response.status_code}"
        case requests.Timeout():
            return f"{url} did not answer in time"
        case requests.exceptions.ChunkedEncodingError():
            return f"the connection to {url} broke in the middle of the download"
        case requests.ConnectionError() if "Read timed out" in str(error):
            return f"{url} stopped answering in the middle of the download"
        case requests.ConnectionError():
            return f"{url} cannot be reached"
        case _:
            return f"{url}: {error}"


def _unpack(archive: Path, member: str, folder: Path) -> Path:
    target = folder / "executable"
    try:
        with tarfile.open(archive) as tar:
            source = tar.extractfile(member)
            if source is None:
                raise KeyError(member)
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise DownloadError(f"{archive.name} does not hold the file {member}") from error
    archive.unlink()
    target.chmod(0o755)
    return target

"""Get an executable from an official release archive, and verify its checksum."""

import platform as machine
import shutil
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

from waybill.progress import download_progress

GITHUB = "https://github.com"
CHUNK = 256 * 1024
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class DownloadError(Exception):
    """A release could not be downloaded; the message says why, in one sentence."""


@dataclass(frozen=True)
class Release:
    """The place at which a project publishes an executable. Every name may contain {version}, {os} and {arch}."""

    repository: str
    version: str
    archive: str
    executable: str
    """The path inside the archive."""
    sha256: Mapping[str, str]
    """The checksums of the archive, by platform: known here, so that a server cannot send another archive."""


def this_platform() -> str:
    """Return the operating system and architecture as Go and both projects name them, such as `linux-amd64`."""
    architecture = machine.machine().lower()
    return f"{sys.platform}-{ARCHITECTURES.get(architecture, architecture)}"


def download(release: Release, folder: Path, *, base_url: str = GITHUB, timeout: float = 5.0) -> Path:
    """Fetch a release into `folder`, verify it, and return the path of the executable in it.

    `timeout` is in seconds, for the connection and then for each silence of the server. Raises DownloadError.
    """
    # Imported here, since it is not needed if the executable is already there.
    import pooch

    platform = this_platform()
    if platform not in release.sha256:
        raise DownloadError(f"no checksum of a release for {platform} is known here")
    names = dict(zip(("os", "arch"), platform.split("-"), strict=True), version=release.version)
    archive = release.archive.format(**names)
    assets = f"{base_url}/{release.repository}/releases/download/v{release.version}"
    # It would print the checksum and the path of the file.
    pooch.get_logger().setLevel("WARNING")
    try:
        with download_progress(f"downloading {archive}") as progress:
            pooch.retrieve(
                f"{assets}/{archive}",
                f"sha256:{release.sha256[platform]}",
                fname=archive,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=progress, chunk_size=CHUNK, timeout=timeout),
            )
    except requests.RequestException as error:
        raise DownloadError(_in_words(error, assets)) from error
    except ValueError as error:
        raise DownloadError(f"{archive} has not the sha256 that is known here, {release.sha256[platform]}") from error
    return _unpack(folder / archive, release.executable.format(**names), folder)


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

"""Create the Secrets of the services and databases, once, with deploy/docker/prepare.py, which is in the image.

The last one marks the others as complete. Until it exists, no database has a password, and all may be created again.
"""

import base64
import json
import os
import runpy
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.request import Request, urlopen

LAST = "postgres"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PREPARE = Path("/app/deploy/docker/prepare.py")


def main() -> None:
    """Do the steps that have not been done yet."""
    if not exists(LAST):
        with TemporaryDirectory() as folder:
            runpy.run_path(str(PREPARE))["make_passwords"](prepared(Path(folder)))
            for owner in sorted(Path(folder).iterdir(), key=lambda owner: owner.name == LAST):
                put(owner.name, {file.name: file.read_bytes() for file in owner.iterdir()})


def prepared(root: Path) -> Path:
    """Return the folders, which are volumes in Docker."""
    for owner in ("postgres", "valkey", "order", "order-relay", "inventory", "payment", "fulfilment"):
        (root / owner).mkdir()
    return root


def exists(owner: str) -> bool:
    """Return whether the Secret of an owner exists."""
    try:
        ask("GET", owner)
    except HTTPError as error:
        if error.code != 404:
            raise
        return False
    return True


def put(owner: str, files: dict[str, bytes]) -> None:
    """Create or replace the Secret of an owner."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{owner}-secrets", "labels": {"app.kubernetes.io/part-of": "waybill"}},
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }
    ask("PATCH", owner, json.dumps(secret).encode())


def ask(method: str, owner: str, body: bytes | None = None) -> None:
    """Call the cluster's API. Raises HTTPError if it refuses, URLError if it does not answer."""
    namespace = os.environ["NAMESPACE"]
    url = f"https://kubernetes.default.svc/api/v1/namespaces/{namespace}/secrets/{owner}-secrets"
    headers = {
        "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
        "Content-Type": "application/apply-patch+yaml",
    }
    query = "?fieldManager=passwords&force=true" if body else ""
    request = Request(url + query, body, headers, method=method)  # noqa: S310
    with urlopen(request, timeout=10, context=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))):  # noqa: S310
        print(f"{method} {owner}-secrets", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()

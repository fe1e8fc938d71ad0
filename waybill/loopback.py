"""HTTP to what runs on this machine."""

import requests


def session() -> requests.Session:
    """Return a session for one block, which asks without a proxy."""
    made = requests.Session()
    # A proxy from the environment could not reach our loopback address.
    made.trust_env = False
    return made

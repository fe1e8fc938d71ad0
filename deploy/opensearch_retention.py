"""Delete old days of traces: Jaeger creates indices for each day in OpenSearch, and does not delete them.

Environment variables: OPENSEARCH_URL, and RETENTION_DAYS, for how many days traces are kept. With `--every 3600` it
repeats this once an hour.
"""

import argparse
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta

import requests

log = logging.getLogger("opensearch-retention")

INDEX = re.compile(r"jaeger-(?:span|service)-(\d{4}-\d{2}-\d{2})")
TIMEOUT_SECONDS = 60


def delete_old(url: str, days: int, now: datetime) -> list[str]:
    """Delete the indices of days that ended more than `days` days ago, and return their names.

    Raises requests.RequestException if OpenSearch does not do it.
    """
    found = requests.get(f"{url}/_cat/indices/jaeger-*", {"h": "index", "format": "json"}, timeout=TIMEOUT_SECONDS)
    found.raise_for_status()
    last = (now - timedelta(days=days)).date().isoformat()
    names = sorted(each["index"] for each in found.json())
    old = [name for name in names if (index := INDEX.fullmatch(name)) and index[1] < last]
    for name in old:
        answer = requests.delete(f"{url}/{name}", timeout=TIMEOUT_SECONDS)
        # Somebody else may have deleted it meanwhile.
        if answer.status_code != requests.codes.not_found:
            answer.raise_for_status()
    return old


def main() -> None:
    """Delete old indices, once or repeatedly."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=float, metavar="SECONDS")
    every = parser.parse_args().every
    url, days = os.environ["OPENSEARCH_URL"], int(os.environ["RETENTION_DAYS"])
    if days < 1:
        sys.exit("RETENTION_DAYS is less than 1")
    while True:
        try:
            names = delete_old(url, days, datetime.now(UTC))
        except requests.RequestException as error:
            # Leave out the text, which may contain the URL with a password.
            log.warning("OpenSearch: %s", type(error).__name__)
            if not every:
                sys.exit(1)
        else:
            log.info("deleted: %s", ", ".join(names) or "nothing")
        if not every:
            return
        time.sleep(every)


if __name__ == "__main__":
    main()

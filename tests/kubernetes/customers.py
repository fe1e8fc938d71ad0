"""Run in a pod: customers order until standard input ends, and write each answer as a line of JSON.

A customer whose connection breaks orders again with the same key, as one should, and reports that it broke.
"""

import json
import sys
import threading
import time
import uuid

import requests

URL = sys.argv[1]
CUSTOMERS = int(sys.argv[2])
PAUSE_SECONDS = 0.1
stop = threading.Event()


def order_on() -> None:
    with requests.Session() as session:
        session.trust_env = False
        while not stop.is_set():
            key, broken = str(uuid.uuid4()), []
            answer = None
            while answer is None:
                try:
                    answer = order(session, key)
                    if answer.status_code == 409 and "Retry-After" in answer.headers:
                        # The first attempt, whose connection broke, is being processed.
                        answer = None
                        time.sleep(1)
                except requests.RequestException as error:
                    broken.append(type(error).__name__)
                    time.sleep(PAUSE_SECONDS)
                    if len(broken) > 100:
                        break
            tell(key, broken, answer)
            time.sleep(PAUSE_SECONDS)


def order(session: requests.Session, key: str) -> requests.Response:
    body = {"items": [{"sku": "TEA-EARL-GREY", "quantity": 2}], "payment_token": "tok_visa"}
    return session.post(f"{URL}/orders", json=body, headers={"Idempotency-Key": key}, timeout=30)


def tell(key: str, broken: list[str], answer: requests.Response | None) -> None:
    told: dict[str, object] = {"key": key, "broken": broken, "status": None, "kind": "", "body": {}}
    if answer is not None:
        kind = answer.headers.get("Content-Type", "")
        told |= {"status": answer.status_code, "kind": kind}
        told["body"] = answer.json() if "json" in kind else {}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main() -> None:
    threads = [threading.Thread(target=order_on) for _ in range(CUSTOMERS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()

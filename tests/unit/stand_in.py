"""A small part for the tests of the supervisor: `stand_in.py NAME PORT DIARY [FAULT …]`.

It accepts connections on PORT and writes what happens to it into the file DIARY, one line each.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType


def main(name: str, port: int, diary: Path, faults: list[str]) -> None:
    def write(event: str) -> None:
        with diary.open("a") as stream:
            stream.write(f"{name} {event}\n")

    def stop(_number: int, _frame: FrameType | None) -> None:
        write("stopped")
        os._exit(0)

    if "dies" in faults:
        die()
    if "stubborn" in faults:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, stop)
    for fault in ("has a child", "has a stubborn child"):
        if fault in faults:
            code = "import time; print('up', flush=True); time.sleep(600)"
            if "stubborn" in fault:
                code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {code}"
            child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            assert child.stdout
            child.stdout.readline()
    if "never ready" in faults:
        write("started")
        threading.Event().wait()
    if "dies again" in faults and diary.exists() and f"{name} started" in diary.read_text():
        write("tried")
        sys.exit(4)
    listener = socket.create_server(("127.0.0.1", port))
    write("started")
    while True:
        listener.accept()[0].close()
        if "talks" in faults:
            print("x" * 999, flush=True)


def die() -> None:
    for number in range(1, 21):
        sys.stderr.write(f"line {number} of the log\n")
    sys.exit(3)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])

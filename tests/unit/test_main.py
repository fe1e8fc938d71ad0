"""Commands of the tool end at Ctrl-C, whenever it comes."""

import signal
import subprocess
import sys

from tests.documents import ROOT

# The signal arrives while an object is finalized, as that of an HTTP connection is.
PRESSED_IN_A_FINALIZER = """
import signal, sys, time
import waybill.commands

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def command(*_):
    Finalized()
    time.sleep(60)

waybill.commands.call = command
from waybill.__main__ import main
main()
"""


def test_ctrl_c_in_a_finalizer_ends_the_command_too() -> None:
    command = [sys.executable, "-c", PRESSED_IN_A_FINALIZER]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signal.SIGINT, "", "\nStopped.\n")

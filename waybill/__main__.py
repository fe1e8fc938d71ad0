"""`waybill`, or `python -m waybill`: the commands of the tool."""

import os
import signal
import sys
import threading
from typing import Any


def main() -> None:
    """Run the command that the arguments name. Ctrl-C ends it in one line."""
    sys.unraisablehook = interrupt_again
    try:
        # Imported here, so that Ctrl-C also ends in one line during the import.
        from waybill.commands import call, waybill

        call(waybill)
    except KeyboardInterrupt:
        from waybill.environment import INTERRUPTED

        sys.stderr.write("\nStopped.\n")
        sys.exit(INTERRUPTED)


def interrupt_again(ignored: Any) -> None:
    """Interrupt this process again if Ctrl-C came in a finalizer, which may not raise: Python only reports it."""
    if ignored.exc_type is KeyboardInterrupt:
        # Here it would be ignored again.
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(ignored)


if __name__ == "__main__":
    main()

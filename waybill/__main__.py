"""`waybill`, or `python -m waybill`: the commands of the tool."""

import sys


def main() -> None:
    """Run the command that the arguments name. Ctrl-C ends it in one line."""
    try:
        # Imported here, so that Ctrl-C also ends in one line during the import.
        from waybill.commands import call, waybill

        call(waybill)
    except KeyboardInterrupt:
        from waybill.environment import INTERRUPTED

        sys.stderr.write("\nStopped.\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()

"""The tool that runs Waybill on one machine: `python -m waybill --help`."""

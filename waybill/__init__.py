"""The tool that runs Waybill on one machine: `waybill --help`."""

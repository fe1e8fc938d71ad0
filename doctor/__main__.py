"""`python -m waybill_doctor`, the same as `waybill-doctor`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="waybill-doctor")

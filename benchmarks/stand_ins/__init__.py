"""Modules that replace our telemetry in a variant of `waybill bench`.

Each file is copied into a copy of the folder `telemetry/`, whose `__init__.py` then ends with an import of all its
names: they replace the names that services and chassis use. The tool does not import anything from here.
"""

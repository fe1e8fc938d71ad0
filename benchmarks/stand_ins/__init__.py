"""Modules that take the place of our telemetry in a variant of `waybill bench`.

Each file is copied into a copy of the folder `telemetry/`, whose `__init__.py` then ends with an import of all its
names: they replace those that services and chassis use. Nothing here is imported by the tool.
"""

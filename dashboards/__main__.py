"""Writes the dashboards anew: `python -m dashboards`."""

from dashboards.catalogue import write

write()

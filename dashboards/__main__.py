"""Writes the dashboards, the rules and the page of the runbooks anew: `python -m dashboards`."""

from dashboards import catalogue, rules, runbooks

for part in (catalogue, rules, runbooks):
    part.write()

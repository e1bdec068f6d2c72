"""`python -m qorzen_obs` is the command `qorzen-obs`."""

from qorzen_obs.cli import main

main()

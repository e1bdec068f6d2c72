"""Which tasks may start now. Pure decisions: no loop, no clock, no thread, no log."""

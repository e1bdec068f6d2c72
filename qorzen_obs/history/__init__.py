"""Where ended tasks are remembered."""

"""A model of the task manager that is independent of it, and a machine that compares the two step by step."""

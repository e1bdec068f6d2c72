"""Callables in processes of their own, which can be killed without hurting a neighbour."""

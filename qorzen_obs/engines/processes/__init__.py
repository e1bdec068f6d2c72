"""Runs callables in processes of their own, which can be killed without hurting other tasks."""

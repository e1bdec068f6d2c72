"""The workload of `qorzen-obs demo`. Light to import: the worker processes that parse do it too."""

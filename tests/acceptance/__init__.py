"""The service as its users meet it: a process of its own, with a real Prometheus and a real collector."""

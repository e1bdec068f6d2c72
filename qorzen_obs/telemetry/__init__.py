"""How tasks are observed: names, metrics, spans, log lines, the work loop's pulse."""

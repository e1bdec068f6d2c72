"""The Grafana dashboards of a service, as code. README.md says what each answers and how to write them anew."""

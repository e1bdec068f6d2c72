"""The files for monitoring a service: Grafana's dashboards, Prometheus' rules and the runbooks.

The project's `dashboards/` builds them, with tools that are not installed with the package. A wheel has the built
files in `qorzen_obs/dashboards`, a checkout in `dashboards`, under the same names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

#: Paths of the files in the wheel, below `qorzen_obs/dashboards`. A test compares pyproject.toml with them.
DASHBOARDS: Final = tuple(
    f"qorzen-{name}.json" for name in ("overview", "queues", "category", "runtime", "telemetry")
)
RULES: Final = "rules/qorzen.yml"
RUNBOOKS: Final = "runbooks.html"

_JOB: Final = re.compile(r"[\w./@:-]+", re.ASCII)
#: Characters that YAML and HTML take unescaped; the name of an alert follows as the fragment.
_URL: Final = re.compile(r"https?://[\w.~:/?&=%@+,;\[\]-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Site:
    """The values that differ between the places that run the rules."""

    job: str = "qorzen"  #: the job_name in Prometheus' configuration
    grafana: str = "http://localhost:3000"
    runbooks: str = "http://localhost:8080/runbooks"  #: URL of the runbook page, of a service or published

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: a value cannot be written into the rules; the message says which values can.
        """
        if not _JOB.fullmatch(self.job):
            raise ValueError(f"the job {self.job!r} may have ASCII letters, digits and _ . / @ : - only")
        for name, url in (("Grafana", self.grafana), ("the runbooks", self.runbooks)):
            if not _URL.fullmatch(url):
                raise ValueError(
                    f"the address of {name} {url!r} must start with http:// or https:// and have no fragment, "
                    "no spaces and no quotes"
                )


def dashboards() -> dict[str, str]:
    """Return the text of each dashboard, by the name of its file."""
    return {name: _read(name) for name in DASHBOARDS}


def rules(site: Site) -> str:
    """Return the recording and alert rules of a site, in Prometheus' format."""
    text, built_for = _read(RULES), Site()
    for built, given in (
        (f'up{{job="{built_for.job}"}}', f'up{{job="{site.job}"}}'),
        (f"dashboard_url: {built_for.grafana}/", f"dashboard_url: {site.grafana.rstrip('/')}/"),
        (f"runbook_url: {built_for.runbooks}#", f"runbook_url: {site.runbooks}#"),
    ):
        text = text.replace(built, given)
    return text


def runbooks() -> str:
    """Return the page that says what to do about each alert. It is self-contained and runs no script."""
    return _read(RUNBOOKS)


def _read(name: str) -> str:
    installed = resources.files("qorzen_obs") / "dashboards"
    folder: Traversable = installed if installed.is_dir() else Path(__file__).parents[1] / "dashboards"
    return folder.joinpath(*name.split("/")).read_text("utf-8")

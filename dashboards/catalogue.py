"""All dashboards, by the name of their file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.board import CATEGORY, OVERVIEW, QUEUES, RUNTIME, TELEMETRY, to_json
from dashboards.category import category
from dashboards.overview import overview
from dashboards.queues import queues
from dashboards.runtime import runtime
from dashboards.telemetry import telemetry

FOLDER: Final = Path(__file__).parent

#: The uid of each, and what builds it.
BUILDERS: Final[Mapping[str, Callable[[], Dashboard]]] = {
    OVERVIEW: overview,
    QUEUES: queues,
    CATEGORY: category,
    RUNTIME: runtime,
    TELEMETRY: telemetry,
}


def files() -> dict[str, str]:
    """Return the text of each generated file, by its name."""
    return {f"{uid}.json": to_json(build()) for uid, build in BUILDERS.items()}


def write(folder: Path = FOLDER) -> None:
    """Write the files."""
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")

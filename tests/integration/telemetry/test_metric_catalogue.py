"""What a service serves under /metrics is the whole catalogue, each series of a known label value from the start."""

import itertools
from collections import Counter

import aiohttp
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

from qorzen_obs.app import Service
from qorzen_obs.counts import CATEGORIES, PRIORITIES
from qorzen_obs.settings import ServerSettings, Settings, TelemetrySettings
from qorzen_obs.telemetry import names
from qorzen_obs.telemetry.names import MetricName
from tests.services.whole_service import url_of, whole_service

DECLARED = {value.name: value for value in vars(names).values() if isinstance(value, MetricName)}
SETTINGS = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(log_level="off"))


async def scrape(service: Service) -> dict[str, Counter[tuple[tuple[str, str], ...]]]:
    """Return the number of samples of each declared family by its labels, bucket bounds left out."""
    headers = {"Accept": "application/openmetrics-text"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url_of(service)}/metrics", headers=headers) as answer,
    ):
        text = await answer.text()
    families: dict[str, Counter[tuple[tuple[str, str], ...]]] = {}
    for family in parse(text):  # type: ignore[no-untyped-call]  # theirs
        if family.name in DECLARED:
            declared = DECLARED[family.name]
            assert (family.type, family.documentation) == (declared.type, declared.help)
            families[family.name] = Counter(
                tuple(sorted((key, value) for key, value in sample.labels.items() if key != "le"))
                for sample in family.samples
            )
    return families


async def test_every_declared_metric_is_served_and_known_series_are_there_from_the_start() -> None:
    async with whole_service(SETTINGS) as service:
        await scrape(service)  # the requests are a metric too, once there was one
        families = await scrape(service)
    assert set(families) == set(DECLARED)
    for family, series in families.items():
        labels = DECLARED[family].labels
        if labels[:2] == ("category", "priority"):
            seen = {(dict(one)["category"], dict(one)["priority"]) for one in series}
            assert seen == {(c.value, p.label) for c, p in itertools.product(CATEGORIES, PRIORITIES)}, family
    phases = {dict(one)["phase"] for one in families[names.PHASE_SECONDS.name]}
    assert phases == set(names.PHASES)
    for metric, label in (
        (names.SPANS, "outcome"),
        (names.TRACES, "decision"),
        (names.LOOP_BLOCKED, "category"),
        (names.LOG_MESSAGES, "level"),
        (names.HEALTH_CHECK, "probe"),
        (names.EVENTS_DROPPED, "kind"),
    ):
        assert len({dict(one)[label] for one in families[metric.name]}) > 1, metric.name

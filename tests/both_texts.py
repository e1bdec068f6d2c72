"""The text of the same metric families by both who can write it: `/metrics` and the client's generate_latest."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from qorzen_obs.server.metrics import Variant, render
from qorzen_obs.server.negotiation import OPENMETRICS, MediaType


@dataclass(frozen=True, eq=False)  # a registry takes what can be hashed, and families cannot
class Collected:
    """Families that stand still."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families

    def gather(self, read: Callable[[Metric], list[bytes]]) -> list[list[bytes]]:
        return [read(family) for family in self.families]


def by_both(source: Collector, media_type: MediaType) -> tuple[list[bytes], list[bytes]]:
    """Return the lines that we write of what is collected now, and the client's."""
    families = Collected(list(source.collect()))
    ours = render(families.gather, Variant(media_type, compressed=False)).body
    generate: Callable[[Collector], bytes] = (
        generate_openmetrics if media_type is OPENMETRICS else generate_latest
    )
    return ours.split(b"\n"), generate(families).split(b"\n")


def assert_same(families: Iterable[Metric], media_type: MediaType) -> None:
    """Hold our text equal to the client's, byte for byte."""
    ours, theirs = by_both(Collected(list(families)), media_type)
    assert ours == theirs

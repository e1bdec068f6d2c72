"""Metrics of your own beside those of the tasks, on the same /metrics.

A metric in the manager's registry is always there. With `telemetry.default_registry` those are there too that
your program, or a library, has in the default registry of prometheus_client.
"""

import asyncio
import urllib.request

from prometheus_client import Counter, Gauge

from qorzen_obs import Settings, TaskCategory, open_task_manager
from qorzen_obs.settings import ServerSettings, TelemetrySettings

OPEN_CARTS = Gauge("shop_open_carts", "Carts that nobody has paid for.")  # in the default registry

SETTINGS = Settings(server=ServerSettings(port=0), telemetry=TelemetrySettings(default_registry=True))


def fetch(url: str) -> str:
    """Blocking, so it is a task on an I/O thread."""
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
        return text


async def main() -> None:
    async with open_task_manager(SETTINGS, http=True) as tasks:
        orders = Counter("shop_orders", "Orders taken.", registry=tasks.registry)
        orders.inc()
        OPEN_CARTS.set(3)
        text = await tasks.run(fetch, f"{tasks.ops_url}/metrics", category=TaskCategory.IO)
    print(
        *(line for line in text.splitlines() if line.startswith(("shop_orders_total", "shop_open"))), sep="\n"
    )


if __name__ == "__main__":
    asyncio.run(main())

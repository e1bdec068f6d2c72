"""The same, with everything that can be seen of it served on http://127.0.0.1:8080/.

QORZEN_SERVER__PORT=0 takes any free port.
"""

import asyncio
import json
import urllib.request
from typing import Any

from qorzen_obs import TaskCategory, open_task_manager


def fetch(url: str) -> Any:
    """Blocking, so it is a task on an I/O thread."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


async def main() -> None:
    async with open_task_manager(http=True) as tasks:
        print(f"serving {tasks.ops_url}/")
        await tasks.run(sum, range(1_000_000), name="add numbers")
        status = await tasks.run(fetch, f"{tasks.ops_url}/status", category=TaskCategory.IO)
        print("tasks", status["tasks"]["by_status"])


if __name__ == "__main__":
    asyncio.run(main())

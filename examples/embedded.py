"""A task manager inside a program of your own."""

import asyncio

from qorzen_obs import open_task_manager


async def main() -> None:
    async with open_task_manager() as tasks:
        print(await tasks.run(sum, range(1_000_000)))


if __name__ == "__main__":
    asyncio.run(main())

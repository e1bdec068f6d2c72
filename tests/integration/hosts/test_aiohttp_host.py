"""A task manager in an aiohttp application: what its context refuses."""

import pytest
from aiohttp import web

from qorzen_obs import Settings
from qorzen_obs.errors import ManagerInitializationError
from qorzen_obs.hosts import cleanup_ctx


async def test_a_second_context_is_refused_and_does_not_replace_the_manager_of_the_first() -> None:
    app = web.Application()
    app.cleanup_ctx.extend([cleanup_ctx(Settings()), cleanup_ctx(Settings())])
    runner = web.AppRunner(app)
    try:
        with pytest.raises(
            ManagerInitializationError, match="has a task manager already; append one context"
        ):
            await runner.setup()
    finally:
        await runner.cleanup()

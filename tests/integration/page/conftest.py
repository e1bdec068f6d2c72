"""The browser in which the page is looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.conftest import require
from tests.services.browser import chromium


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = require("chromium", "apt-get install chromium")
    async with chromium(path) as browser:
        yield browser

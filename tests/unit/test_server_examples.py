"""The examples in the server's docstrings do what they say."""

import doctest
from types import ModuleType

import pytest

from qorzen_obs.server import body, documents, negotiation, security


@pytest.mark.parametrize("module", [body, documents, negotiation, security])
def test_the_examples_hold(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0

"""What most tests of the SDK share."""

from __future__ import annotations

import pytest

from florence_edge.bundle import Bundle
from support.fake_backend import make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose engine is scripted; not to be written to."""
    return make_bundle(tmp_path_factory.mktemp("scripted") / "bundle")

"""What the tests of the lowering share. Libraries that `make test-matrix` lacks are imported where they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from florence_edge.bundle import Bundle

if TYPE_CHECKING:
    from florence_convert.lowering import Lowered


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The bundled model."""
    return Bundle.open("tabletop")


@pytest.fixture(scope="session")
def lowered(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Its graphs with plugin nodes, in fp32; not to be written to."""
    from florence_convert.lowering import lower

    return lower(bundle, tmp_path_factory.mktemp("lowered"), precision="fp32")

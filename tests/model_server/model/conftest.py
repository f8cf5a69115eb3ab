"""The fixtures that the tests of the model share."""

from __future__ import annotations

import pytest

from tests.model_server.model.family import Family, make_family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The open family's own implementation and ours, with the same random weights."""
    for needed in ("transformers", "scipy"):
        pytest.importorskip(
            needed, reason="the truth of this test is transformers: pip install 'microturn[dev]'"
        )
    return make_family(tmp_path_factory.mktemp("inkling"))

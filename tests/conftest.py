"""Every test leaves the process as it was: nothing that deepseg does is seen by its caller."""

import pytest

from tests.process_state import changed, process_state


@pytest.fixture(autouse=True)
def unchanged_process():
    before = process_state()
    yield
    names = changed(before, process_state())
    assert names == [], f"changed by this test: {', '.join(names)}"

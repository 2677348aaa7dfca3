"""Every test leaves the process as it was: nothing that deepseg does is seen by its caller."""

import locale

import pytest
from hypothesis import HealthCheck, settings

from tests.process_state import changed, process_state

# On a busy machine, slow examples say nothing about the code.
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def unchanged_process():
    before, languages = process_state(), locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, languages)  # SimpleITK changes it where it writes DICOM
    names = changed(before, process_state())
    assert names == [], f"changed by this test: {', '.join(names)}"

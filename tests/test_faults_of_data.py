"""Every fault of the data, brought about: what a run does is what is promised."""

from tests.faults.fault import Case, Fault
from tests.faults.table import FAULTS, list_cases

import pytest


@pytest.mark.parametrize(("fault", "case"), list_cases(FAULTS, "C"))
def test_a_fault_does_no_harm(fault: Fault, case: Case, tmp_path):
    finding = case.attempt(tmp_path)
    assert finding.verdict == fault.wanted, f"{fault.number} {fault.what}: {finding.verdict}: {finding.evidence}"

"""Every fault of the table, brought about: what a run does is what is promised, for each recipe that can meet it."""

from tests.faults.fault import Case, Fault
from tests.faults.table import FAULTS

import pytest

CASES = [(fault, case) for fault in FAULTS for case in fault.cases]


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        pytest.param(fault, case, id=f"{fault.number} {case.name}", marks=[pytest.mark.slow] if case.is_slow else [])
        for fault, case in CASES
    ],
)
def test_a_fault_does_no_harm(fault: Fault, case: Case, tmp_path):
    finding = case.attempt(tmp_path)
    assert finding.verdict == fault.wanted, f"{fault.number} {fault.what}: {finding.verdict}: {finding.evidence}"

"""Every fault of the process and its checkpoints, brought about: what a run does is what is promised."""

from tests.faults.fault import Case, Fault
from tests.faults.table import FAULTS, list_cases

import pytest


@pytest.mark.parametrize(("fault", "case"), list_cases(FAULTS, "AB"))
def test_a_fault_does_no_harm(fault: Fault, case: Case, tmp_path):
    finding = case.attempt(tmp_path)
    assert finding.verdict == fault.wanted, f"{fault.number} {fault.what}: {finding.verdict}: {finding.evidence}"


def test_the_table_has_every_fault_once():
    last = {"A": 35, "B": 30, "C": 76, "D": 20, "E": 11}
    assert [fault.number for fault in FAULTS] == [f"{group}{n}" for group in last for n in range(1, last[group] + 1)]

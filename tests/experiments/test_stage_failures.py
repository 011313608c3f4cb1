"""Why stages failed: kept in a file each until they are executed again, and printed at the end."""

import pytest

from ethand_utils.exceptions import EthandError
from ethand_utils.experiments.stage_failures import (
    forget_failures,
    print_failures,
    read_failure,
    recorded_failure,
    write_failure,
)


@pytest.mark.parametrize(
    ("error", "reason"), [(EthandError("no store"), "no store"), (KeyError("left"), "KeyError: 'left'")]
)
def test_why_a_stage_failed_is_kept_until_it_is_executed_again(error, reason, tmp_path, capsys):
    with pytest.raises(type(error)), recorded_failure(tmp_path, "index"):
        raise error
    assert read_failure(tmp_path, "index") == reason
    print_failures(tmp_path)
    assert capsys.readouterr().err == f"index failed: {reason}\n"
    with recorded_failure(tmp_path, "index"):
        pass
    assert read_failure(tmp_path, "index") == ""


def test_a_new_call_forgets_all_failures(tmp_path):
    write_failure(tmp_path, "a", "x")
    write_failure(tmp_path, "b", "y")
    forget_failures(tmp_path)
    assert not read_failure(tmp_path, "a") + read_failure(tmp_path, "b")

"""A short part of the campaign of kills, and that it sees what it looks for."""

from pathlib import Path

import pytest

from campaign import kill
from forked_cli import ForkedCli

N_KILLS = 20


@pytest.mark.slow
def test_killed_calls_end_as_undisturbed_ones(tmp_path: Path) -> None:
    with kill.campaign(tmp_path, seed=21) as campaign:
        number = 0
        while campaign.tally.kills.total() < N_KILLS:
            campaign.case(number)
            number += 1
        with ForkedCli() as other:
            campaign.pair(0, other)
    assert not campaign.tally.faults, "\n".join(campaign.tally.faults)

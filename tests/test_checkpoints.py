"""Checkpoint files: what was written comes back, and nothing else is taken for one."""

from pathlib import Path

import pytest
import torch

from mql4grec import checkpoints
from mql4grec.errors import ArtifactError


def stepped(seed: int) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(seed)
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    return network, optimizer


def test_parts_and_optimizer_come_back(tmp_path: Path) -> None:
    network, optimizer = stepped(0)
    parts = {
        "network": {"weight.of it": network.weight.detach().T},  # not contiguous; names have dots
        "optimizer": checkpoints.optimizer_state(optimizer),
        "nothing": {},
    }
    checkpoints.write(tmp_path / "c.safetensors", parts, {"mark": "m"})
    found, header = checkpoints.read(tmp_path / "c.safetensors", made_by="finetune")
    assert header["mark"] == "m"
    assert set(found) == {"network", "optimizer"}
    assert torch.equal(found["network"]["weight.of it"], network.weight.T)
    other_network, other = stepped(1)
    checkpoints.restore_optimizer(other, found["optimizer"])
    for mine, theirs in zip(other_network.parameters(), network.parameters(), strict=True):
        assert other.state[mine].keys() == optimizer.state[theirs].keys()
        for name, tensor in optimizer.state[theirs].items():
            assert torch.equal(other.state[mine][name], tensor)


def test_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(ArtifactError) as caught:
        checkpoints.read(path, made_by="finetune")
    assert str(caught.value).startswith(f"`{path}`: expected a file that `mql4grec finetune` wrote")


@pytest.mark.parametrize("place", [-1, -9, 200])
def test_a_flipped_bit_is_told(tmp_path: Path, place: int) -> None:
    path = tmp_path / "c.safetensors"
    network, optimizer = stepped(0)
    parts = {"network": network.state_dict(), "optimizer": checkpoints.optimizer_state(optimizer)}
    checkpoints.write(path, parts, {"mark": "m"})
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="run `mql4grec finetune` again"):
        checkpoints.read(path, made_by="finetune")

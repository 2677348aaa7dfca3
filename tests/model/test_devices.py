"""The GPU that each process takes, with what torch would say on such machines."""

import pytest
import torch

from deepseg.errors import DeepsegError
from deepseg.model.devices import chosen_device, device_warnings

VARIABLES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS",
)  # fmt: skip


@pytest.fixture
def machine(monkeypatch):
    """Number of GPUs that torch sees, and variables of the process."""

    def make(gpus, **variables):
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return make


def test_a_process_alone_takes_the_first_gpu_or_that_which_is_named(machine):
    machine(4)
    assert chosen_device("auto") == chosen_device("gpu") == torch.device("cuda", 0)
    assert chosen_device("cuda2") == chosen_device("cuda:2") == torch.device("cuda", 2)
    machine(0)
    assert chosen_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("rank", range(3))
def test_each_rank_of_torchrun_takes_a_gpu_of_its_own(machine, rank):
    machine(3, RANK=rank + 3, LOCAL_RANK=rank, WORLD_SIZE=6, LOCAL_WORLD_SIZE=3)
    assert chosen_device("auto") == torch.device("cuda", rank)


@pytest.mark.parametrize("rank", range(2))
def test_a_rank_that_slurm_binds_takes_the_one_gpu_that_it_sees(machine, rank):
    machine(1, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, SLURM_STEP_NUM_TASKS=2)
    assert chosen_device("auto") == torch.device("cuda", 0)


@pytest.mark.parametrize("rank", range(2))
def test_slurm_tells_the_number_on_the_machine_where_nobody_else_does(machine, rank):
    machine(2, RANK=rank + 2, WORLD_SIZE=4, SLURM_LOCALID=rank, SLURM_STEP_NUM_TASKS=4)
    assert chosen_device("cuda") == torch.device("cuda", rank)


def test_a_rank_without_a_gpu_is_refused_at_once(machine):
    machine(2, RANK=2, LOCAL_RANK=2, WORLD_SIZE=3, LOCAL_WORLD_SIZE=3)
    with pytest.raises(DeepsegError) as refusal:
        chosen_device("auto")
    assert str(refusal.value) == (
        "[device-absent] -dev: got cuda2 on a machine where torch finds 2 GPUs; expected a GPU "
        "that is there; fix: use -dev cpu, or install a torch build for your GPU and its driver"
    )


def test_one_gpu_is_not_named_for_several_ranks(machine):
    machine(2, RANK=1, LOCAL_RANK=1, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2)
    with pytest.raises(DeepsegError) as refusal:
        chosen_device("cuda0")
    assert str(refusal.value) == (
        "[device-shared] -dev: got -dev cuda0 for several ranks; expected -dev cuda, of which each "
        "rank takes a GPU of its own; fix: say -dev cuda; CUDA_VISIBLE_DEVICES chooses which GPUs "
        "there are"
    )
    machine(2, LOCAL_WORLD_SIZE=2)  # a worker of -test, whose GPU was chosen for it
    assert chosen_device("cuda1") == torch.device("cuda", 1)


@pytest.mark.parametrize("there", [True, False])
def test_apples_gpu_is_taken_with_a_warning_where_it_is_there(machine, monkeypatch, there):
    machine(0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: there)
    if there:
        assert chosen_device("mps") == torch.device("mps")
        assert device_warnings("bfloat16", torch.device("mps")) == [
            "-dev mps is untested: compare a few results with those of -dev cpu"
        ]
        return
    with pytest.raises(DeepsegError) as refusal:
        chosen_device("mps")
    assert str(refusal.value) == (
        "[device-absent] -dev: got mps on a machine where torch finds no GPU of Apple's; expected "
        "a GPU that is there; fix: use -dev cpu or -dev auto"
    )

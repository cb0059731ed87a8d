"""How processes were started, and what they say to each other."""

from __future__ import annotations

import multiprocessing
import os
import socket

import pytest
import torch
from torch import distributed

from codir.errors import ConfigError
from codir.training import processes


def test_advice(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.launch_advice(0) is processes.launch_advice(1) is None
    assert "4 GPUs are here and one is used" in str(processes.launch_advice(4))
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes.launch_advice(4) is None


def test_one_process_only(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.one_process_only("codir demo")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started, and codir demo runs in one"):
        processes.one_process_only("codir demo")


def test_the_first_of_the_processes_before_they_have_met(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert (processes.rank(), processes.is_main()) == (1, False)
    monkeypatch.delenv("WORLD_SIZE")
    assert (processes.rank(), processes.is_main()) == (0, True)


def test_errors_of_a_broken_connection_are_told_from_others():
    gloo = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4242"
    assert processes.other_process_ended(RuntimeError(gloo))
    assert processes.other_process_ended(distributed.DistNetworkError("timed out"))
    assert not processes.other_process_ended(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not processes.other_process_ended(ValueError(gloo))


def test_alone_everything_is_what_this_process_says():
    processes.barrier()
    assert processes.agree(3, 0) == (3, 0)
    assert processes.broadcast_text("größer") == "größer"
    assert processes.gather_texts("a") == ["a"]
    assert processes.total(torch.tensor([1.5])).tolist() == [1.5]


def _talk(rank: int, port: int, answers) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
    processes.barrier()
    mine = ["größer", "", "third"][rank]
    answers.put(
        (
            rank,
            processes.rank(),
            processes.agree(rank, -rank),
            processes.broadcast_text(mine),
            processes.broadcast_text("" if rank == 0 else "unheard"),
            processes.gather_texts(mine),
            processes.total(torch.tensor([1.0, rank])).tolist(),
        )
    )
    answers.close()
    answers.join_thread()
    os._exit(0)


def test_three_processes_hear_the_same():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    children = [fork.Process(target=_talk, args=(rank, port, answers)) for rank in range(3)]
    for child in children:
        child.start()
    heard = sorted(answers.get(timeout=60) for _ in children)
    for child in children:
        child.join(20)
    same = ((2, 0), "größer", "", ["größer", "", "third"], [3.0, 3.0])
    assert heard == [(rank, rank, *same) for rank in range(3)]

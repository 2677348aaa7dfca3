"""Training on two machines, which two network namespaces of this one stand for (Linux, root, `ip`).

    python benchmarks/two_machines.py FOLDER [--kill]

FOLDER has a ``train.yaml`` with a model. Each namespace has a network card of its own and starts
torchrun as `documentation/clusters.md` says, with one rank on the CPU. With ``--kill``, the second
machine's rank is killed once its first epoch is over; torchrun starts both again. Prints the exit
code of each machine and the epochs that are in ``metrics.jsonl``; ends with 0 if all went well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from deepseg.config.load import load
from deepseg.config.training import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
MACHINES = {"first": "10.77.0.1", "second": "10.77.0.2"}
LIMIT_S = 900
POLL_S = 0.2


def main() -> int:
    """Run the training on both machines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    config = load(TrainConfig, options.folder / "train.yaml").config
    connect()
    try:
        machines = [start(name, options.folder) for name in MACHINES]
        if options.kill:
            kill_rank(machines[1].pid, config.folder / "metrics.jsonl")
        codes = [machine.wait(timeout=LIMIT_S) for machine in machines]
    finally:
        for name in MACHINES:
            pids = subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True)
            for number in pids.stdout.split():
                os.kill(int(number), signal.SIGTERM)
            subprocess.run(["ip", "netns", "del", name], check=False)
    records = [json.loads(line) for line in (config.folder / "metrics.jsonl").open()]
    epochs = [record["epoch"] + 1 for record in records if record["epoch"] >= 0]
    print(f"exit codes {codes}, epochs {epochs}")
    return int(any(codes) or epochs != list(range(1, config.epochs + 1)))


def connect() -> None:
    """Two namespaces with a cable between them."""
    for name in MACHINES:
        ip("netns", "add", name)
    ip("link", "add", "eth7", "netns", "first", "type", "veth", "peer", "eth7", "netns", "second")
    for name, address in MACHINES.items():
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth7")
        for card in ("eth7", "lo"):
            ip("-n", name, "link", "set", card, "up")


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True)


def start(name: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start torchrun on a machine."""
    words = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
    words += ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3"]
    words += ["--rdzv-backend", "c10d", "--rdzv-id", "7"]
    words += ["--rdzv-endpoint", f"{MACHINES['first']}:29500"]
    words += ["--local-addr", MACHINES[name]]
    # Both have the name of this machine, by which torchrun tells where the meeting point is.
    words += ["--rdzv-conf", f"is_host={int(name == 'first')}"]
    words += ["-m", "deepseg", "-train", "train.yaml", "-dev", "cpu"]
    environment = {
        "PYTHONPATH": str(ROOT),
        "GLOO_SOCKET_IFNAME": "eth7",
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    return subprocess.Popen(words, cwd=folder, env={**os.environ, **environment})


def kill_rank(torchrun: int, metrics: Path) -> None:
    """Kill the rank below a torchrun once an epoch is over."""
    until = time.monotonic() + LIMIT_S
    while not metrics.exists():
        assert time.monotonic() < until, "no epoch"
        time.sleep(POLL_S)
    words = ["pgrep", "-P", str(torchrun)]
    for number in subprocess.run(words, check=True, capture_output=True, text=True).stdout.split():
        print(f"killed: process {number}")
        os.kill(int(number), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

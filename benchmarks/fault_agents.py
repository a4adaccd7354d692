"""Two torchrun agents as two nodes, on loopback or in two network namespaces, with ranks, agents and wires cut.

`python benchmarks/fault_agents.py --out agents.json`; namespaces need root and `ip`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.launched import ROOT, WORDS, Row, children, contents, differing, finish, status_of, tell, wait_for
from utils.doctor import environment

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SAFE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
NAMESPACES = ("emblem0", "emblem1")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
Agent = subprocess.Popen[str]


def agents(folder: Path, name: str, apart: bool = False, *words: str) -> list[Agent]:
    """Two agents of one rank each; the first keeps the rendezvous. apart: each in a network namespace of its own."""
    return [agent(folder, name, node, apart, *words) for node in (0, 1)]


def agent(folder: Path, name: str, node: int, apart: bool, *words: str) -> Agent:
    """One of them; what it says goes into a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    own = ADDRESSES[node] if apart else "127.0.0.1"
    endpoint = f"{ADDRESSES[0] if apart else '127.0.0.1'}:{29400 + sum(name.encode()) % 400}"
    launcher = [
        *(["ip", "netns", "exec", NAMESPACES[node]] if apart else []), *TORCHRUN, "--nnodes=2", "--nproc-per-node=1",
        "--max-restarts=3", "--shutdown-timeout=5", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}",
        f"--rdzv-id={name}", f"--rdzv-conf=join_timeout=60,last_call_timeout=2,is_host={int(node == 0)}",
        f"--local-addr={own}",
    ]  # fmt: skip
    more = SAFE | {"OMP_NUM_THREADS": "1"} | ({"GLOO_SOCKET_IFNAME": f"wire{node}"} if apart else {})
    with (folder / f"{name}-{node}.txt").open("a") as out:
        return subprocess.Popen(
            [*launcher, "main.py", *WORDS, f"run.folder={folder}", f"run.name={name}", "run.resume=auto", *words],
            cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True, env={**os.environ, **more},
        )  # fmt: skip


def undisturbed(folder: Path, apart: bool) -> Row:
    """Both to the end."""
    codes = [finish(each) for each in agents(folder, "whole", apart)]
    return {"codes": codes, "status": status_of(folder / "whole")}


def killed_rank(folder: Path, apart: bool) -> Row:
    """SIGKILL of the second node's rank in the middle."""
    both = agents(folder, "rank", apart)
    trained(folder / "rank")
    worker = descendants(both[1].pid)[-1]
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    codes = [finish(each) for each in both]
    equal = differing(contents(folder / "rank"), contents(folder / "whole")) == []
    row = {"codes": codes, "status": status_of(folder / "rank"), "bit-equal": equal}
    return row | {"seconds": time.monotonic() - began}


def killed_agent(folder: Path, apart: bool) -> Row:
    """SIGKILL of the second agent, which takes its rank along; a new one comes in its place."""
    first, second = agents(folder, "agent", apart)
    trained(folder / "agent")
    kill_all(second)
    began = time.monotonic()
    third = agent(folder, "agent", 1, apart)
    codes = [finish(first), finish(third)]
    equal = differing(contents(folder / "agent"), contents(folder / "whole")) == []
    row = {"codes": codes, "status": status_of(folder / "agent"), "bit-equal": equal}
    return row | {"seconds": time.monotonic() - began}


def lost_agent(folder: Path, apart: bool) -> Row:
    """SIGKILL of the second agent; nobody comes in its place: the first gives up after its join_timeout of 60 s."""
    first, second = agents(folder, "alone", apart, "optim.epochs=400")
    trained(folder / "alone")
    kill_all(second)
    began = time.monotonic()
    code = finish(first)
    seconds = time.monotonic() - began
    return {"codes": [code], "status": status_of(folder / "alone"), "seconds": seconds, **named(folder, "alone")}


def cut_wire(folder: Path, apart: bool) -> Row:
    """The wire between two namespaces goes down: nothing is closed, nothing is answered any more."""
    both = agents(folder, "wire", apart, "optim.epochs=4000")
    trained(folder / "wire")
    subprocess.run(["ip", "-n", NAMESPACES[1], "link", "set", "wire1", "down"], check=True)
    began = time.monotonic()
    told = wait_for(lambda: bool(named(folder, "wire")["said"]), 120)
    seconds = time.monotonic() - began
    for each in both:
        kill_all(each)
    subprocess.run(["ip", "-n", NAMESPACES[1], "link", "set", "wire1", "up"], check=True)
    return {"told": told, "seconds": seconds, "status": status_of(folder / "wire"), **named(folder, "wire")}


def trained(run: Path) -> None:
    """Wait for the first checkpoint inside the second epoch or later."""
    assert wait_for(lambda: any(run.glob("checkpoints/epoch_000[1-9]*")), 150), "it does not train"


def named(folder: Path, name: str) -> Row:
    """The first line of an error that either of them has said."""
    for node in (0, 1):
        lines = (folder / f"{name}-{node}.txt").read_text().splitlines()
        for line in lines:
            if line.startswith("error: "):
                return {"said": line[:160]}
    return {"said": ""}


def descendants(pid: int) -> list[int]:
    """The process and all that it has started, in that order."""
    return [pid, *(one for child in children(pid) for one in descendants(child))]


def kill_all(program: Agent) -> None:
    """SIGKILL of the launcher alone; its ranks die with it. Under `ip netns exec` it is the same process."""
    program.kill()
    program.wait()


def namespaces(up: bool) -> None:
    """Make, or take away, two network namespaces that a wire joins."""
    for name in NAMESPACES:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    if not up:
        return
    first, second = NAMESPACES
    commands = [
        f"ip netns add {first}", f"ip netns add {second}",
        f"ip link add wire0 netns {first} type veth peer name wire1 netns {second}",
    ]  # fmt: skip
    for node, name in enumerate(NAMESPACES):
        commands += [
            f"ip -n {name} addr add {ADDRESSES[node]}/24 dev wire{node}", f"ip -n {name} link set wire{node} up",
            f"ip -n {name} link set lo up",
        ]  # fmt: skip
    for command in commands:
        subprocess.run(command.split(), check=True)


def main(words: list[str]) -> int:
    """Each fault once, on loopback and where it can be had in two namespaces; a line each, and JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks/fault_agents.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("fault_agents.json"), help="(default: %(default)s)")
    parser.add_argument("--where", nargs="+", choices=("loopback", "namespaces"), default=["loopback", "namespaces"])
    chosen = parser.parse_args(words)
    rows: list[Row] = []
    for where in chosen.where:
        apart = where == "namespaces"
        if apart:
            namespaces(True)
        with tempfile.TemporaryDirectory() as folder:
            for fault in (undisturbed, killed_rank, killed_agent, lost_agent, *([cut_wire] if apart else [])):
                rows.append({"where": where, "fault": fault.__name__, **fault(Path(folder), apart)})
                tell(rows[-1])
                chosen.out.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=2, default=str))
        if apart:
            namespaces(False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

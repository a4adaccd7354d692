"""The files that start a run on a cluster: they hold what a restart needs, and the SLURM script keeps its word."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPT = LAUNCH / "slurm.sbatch"
RESUMES = ("run.resume=auto", "run.name=")
# what stands in for SLURM: each command notes its words in a file of its name; torchrun does what a run would do
FAKES = {
    "scontrol": 'echo "$@" >> scontrol.said',
    "scancel": 'echo "$@" >> scancel.said; kill -TERM "$(cat torchrun.pid)" 2> /dev/null',
    "srun": 'echo "$@" > srun.said; while [ "$1" != torchrun ]; do shift; done; exec "$@"',
}
FOR_EVER = "while :; do sleep 0.01; done"
SAVES = "mkdir -p runs/one/checkpoints; ln -sfn epoch_0002.pt runs/one/checkpoints/last.pt"


def says(status: str) -> str:
    return f"""mkdir -p runs/one; echo '{json.dumps({"status": status, "step": 5}, indent=2)}' > runs/one/status.json"""


Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts the script in a folder of its own, as SLURM does, with its first word as the body of `torchrun`."""
    begun: list[subprocess.Popen[str]] = []

    def start(torchrun: str, **more: str) -> "subprocess.Popen[str]":
        (tmp_path / "bin").mkdir()
        for name, body in {**FAKES, "torchrun": torchrun}.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        slurm = {"SLURM_JOB_ID": "41007", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "32"}
        environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **slurm, **more}
        words, pipe = ["bash", str(SCRIPT), "one", "config/digits_propos.yml", "data.root=a folder"], subprocess.PIPE
        begun.append(
            subprocess.Popen(
                words, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def said(folder: Path, name: str) -> str:
    file = folder / f"{name}.said"
    return file.read_text() if file.exists() else ""


def wait_for(file: Path) -> None:
    give_up = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < give_up, f"{file.name} never came"
        time.sleep(0.01)


def test_a_completed_run_ends_the_job(begin: Begin, tmp_path: Path) -> None:
    assert ended(begin(f"{SAVES}; {says('completed')}; exit 1")) == (0, "")
    assert said(tmp_path, "scontrol") == ""


@pytest.mark.parametrize("left", [says("preempted"), f"{SAVES}; {says('failed')}", f"{SAVES}; {says('running')}"])
def test_a_run_that_got_further_and_is_not_done_goes_back_into_the_queue(
    begin: Begin, tmp_path: Path, left: str
) -> None:
    code, text = ended(begin(f"{left}; exit 1"))
    assert (code, said(tmp_path, "scontrol")) == (0, "requeue 41007\n")
    assert text == "one is not done: back into the queue\n"


@pytest.mark.parametrize("left", [":", says("failed"), says("running")])
def test_a_run_that_got_no_further_is_not_tried_for_ever(begin: Begin, tmp_path: Path, left: str) -> None:
    subprocess.run(["bash", "-c", f"{SAVES}; {says('preempted')}"], cwd=tmp_path, check=True)  # by an earlier attempt
    code, text = ended(begin(f"{left}; exit 3"))
    assert (code, said(tmp_path, "scontrol")) == (3, "")
    assert "one got no further (exit code 3)" in text


SAVING = f"save() {{ touch told; while [ ! -e saved ]; do sleep 0.01; done; {says('preempted')}; exit 1; }}"
RUNNING = f"{SAVING}; trap save TERM; echo $$ > torchrun.pid; touch begun; {FOR_EVER}"


def test_the_warning_reaches_the_ranks_as_sigterm_and_the_script_waits_until_they_have_saved(
    begin: Begin, tmp_path: Path
) -> None:
    process = begin(RUNNING)
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGUSR1)
    wait_for(tmp_path / "told")
    assert (process.poll(), said(tmp_path, "scontrol")) == (None, "")  # it is being saved
    process.send_signal(signal.SIGUSR1)  # a second one changes nothing
    (tmp_path / "saved").touch()
    assert ended(process) == (0, "one is not done: back into the queue\n")
    assert said(tmp_path, "scontrol") == "requeue 41007\n"
    assert "--signal=TERM 41007\n" in said(tmp_path, "scancel")


def test_a_cancelled_job_is_waited_for_and_not_sent_again(begin: Begin, tmp_path: Path) -> None:
    process = begin(RUNNING)
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGTERM)  # to the ranks SLURM sends it itself
    os.kill(int((tmp_path / "torchrun.pid").read_text()), signal.SIGTERM)
    wait_for(tmp_path / "told")
    assert process.poll() is None
    (tmp_path / "saved").touch()
    assert ended(process) == (143, "")
    assert said(tmp_path, "scontrol") + said(tmp_path, "scancel") == ""


def test_a_warning_before_anything_was_saved_is_no_failure_of_the_run(begin: Begin, tmp_path: Path) -> None:
    process = begin(f"trap 'exit 1' TERM; echo $$ > torchrun.pid; touch begun; {FOR_EVER}")
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGUSR1)
    assert ended(process)[0] == 0
    assert said(tmp_path, "scontrol") == "requeue 41007\n"


def test_torchrun_is_told_of_the_nodes_and_the_run_of_its_name(begin: Begin, tmp_path: Path) -> None:
    shows = 'printf "%s\\n" "$@" > words; env > environment; ' + says("completed")
    assert ended(begin(shows, RUNS="elsewhere"))[0] == 1  # its status is looked for in RUNS
    words = (tmp_path / "words").read_text().splitlines()
    known = (tmp_path / "environment").read_text().splitlines()
    assert words[:3] == ["--nnodes=2", "--nproc-per-node=4", "--max-restarts=3"]
    assert {"--rdzv-backend=c10d", "--rdzv-id=41007", f"--rdzv-endpoint={os.uname().nodename}:21007"} < set(words)
    assert words[words.index("main.py") + 1 :] == [
        *("config/digits_propos.yml", "data.root=a folder"),
        *("run.folder=elsewhere", "run.name=one", "run.resume=auto"),
    ]
    assert {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", "OMP_NUM_THREADS=8", "SRUN_CPUS_PER_TASK=32"} < set(known)


def number_after(text: str, option: str) -> int:
    rest = text.partition(option)[2]
    return int(rest[: next(i for i, sign in enumerate(f"{rest} ") if not sign.isdigit())])


def test_the_slurm_script_has_time_to_save_and_may_be_sent_again(tmp_path: Path) -> None:
    text = SCRIPT.read_text()
    assert "#SBATCH --requeue\n" in text and "#SBATCH --open-mode=append\n" in text
    assert 0 < number_after(text, "--shutdown-timeout=") < number_after(text, "--signal=B:USR1@")
    assert number_after(text, "--shutdown-timeout=") < number_after(text, "--wait=")
    assert SCRIPT.stat().st_mode & 0o111
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def checked_words(command: str) -> None:
    """Assert what every launch of torchrun here has."""
    assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0
    words = command.split()
    assert "--rdzv-backend=c10d" in words and "run.resume=auto" in words
    for option in (
        "--max-restarts=",
        "--shutdown-timeout=",
        "--rdzv-endpoint=",
        "--rdzv-id=",
        "run.name=",
        "run.folder=",
    ):
        assert any(word.startswith(option) for word in words), option


def test_the_train_job_brings_its_runtime_and_leaves_its_pods_time_to_save() -> None:
    runtime, job = yaml.safe_load_all((LAUNCH / "trainjob.yaml").read_text())
    assert {one["apiVersion"] for one in (runtime, job)} == {"trainer.kubeflow.org/v1alpha1"}
    assert (runtime["kind"], job["kind"]) == ("TrainingRuntime", "TrainJob")
    assert job["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": runtime["metadata"]["name"],
    }  # fmt: skip
    jobset = runtime["spec"]["template"]["spec"]
    assert jobset["failurePolicy"]["maxRestarts"] > 0
    (replicated,) = jobset["replicatedJobs"]
    assert replicated["name"] == "node"
    assert replicated["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    trainer = job["spec"]["trainer"]
    assert {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"} in trainer["env"]
    assert trainer["numProcPerNode"] == trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    shell, option, command = trainer["command"]
    assert (shell, option) == ("bash", "-c") and command.startswith("exec torchrun ")
    checked_words(command)
    assert 0 < number_after(command, "--shutdown-timeout=") < pod["terminationGracePeriodSeconds"]


def test_the_sky_task_runs_one_command_that_resumes_on_a_volume() -> None:
    task: dict[str, Any] = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert task["resources"]["use_spot"] is True and task["num_nodes"] > 1
    assert list(task["volumes"]) == ["/shared"]
    assert "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1\n" in task["run"]
    checked_words(task["run"])
    for variable in ("NUM_NODES", "NUM_GPUS_PER_NODE", "NODE_IPS"):
        assert f"$SKYPILOT_{variable}" in task["run"]
    assert {"NAME", "CONFIG"} == set(task["envs"])

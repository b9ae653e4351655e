"""Cells on other machines, with the real engines: a Ray cluster that loses a node, Slurm with a time limit.
In the long form alone, as each takes a minute and more."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import python

from fvlm import load_run
from fvlm.studies.grid import read_grid
from fvlm.training.progress import read_progress

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TIMES == 1, reason="make test-long tries machines that go away"),
]


def one_cell(out: Path, slurm: dict | None = None, steps: int = 60, eval_every: int = 2):
    """A grid of one cell; it keeps a checkpoint at each evaluation."""
    settings = dict(steps=steps, eval_every=eval_every, eval_samples=4, effective_batch=2, features=False)
    grid = dict(
        study="s",
        settings=settings | dict(device="cpu", precision="fp32", out=str(out)),
        cells=[dict(pairs=["T1-T"], frames=[2], archs=["bli"])],
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "grid.yaml").write_text(yaml.safe_dump(grid | (dict(slurm=slurm) if slurm else {})))
    return read_grid(out / "grid.yaml")


def losses(folder) -> list:
    table = load_run(folder).evaluations
    return table[["step", "loss_parallel"]].to_numpy().tolist()


def undisturbed(grid) -> list:
    """What a grid's cell finds where nothing happens to it."""
    (cell,) = grid.cells
    code = (
        "import json, sys; from fvlm import RunConfig, train; "
        "train(RunConfig.from_dict(json.loads(sys.argv[1])))"
    )
    python("-c", code, json.dumps(cell.config.to_dict()), env=dict(OMP_NUM_THREADS="1"), timeout=1500)
    return losses(cell.folder)


def last_checkpoint(folder: Path) -> int:
    return max((int(p.name[5:]) for p in folder.glob("checkpoint/step-*")), default=0)


def wait_for(condition, seconds: float):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def pid_of(folder: Path) -> int | None:
    progress = read_progress(folder)
    return progress and progress["pid"]


def two_nodes():
    """A Ray cluster of two nodes beside its head; Ray waits thirty seconds for each, a busy machine may need
    another attempt."""
    from ray.cluster_utils import Cluster

    for attempt in range(3):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, include_dashboard=False)
            return cluster, [cluster.add_node(num_cpus=1) for _ in range(2)]
        except Exception as error:
            cluster.shutdown()
            if attempt == 2 or "timed out during startup" not in str(error):
                raise


def test_a_cell_whose_node_is_taken_away_goes_on_elsewhere_from_its_checkpoint(tmp_path, count):
    pytest.importorskip("ray", reason="Ray is not installed")
    grid = one_cell(tmp_path)
    (cell,) = grid.cells
    cluster, nodes = two_nodes()
    seen = {}

    def take_away():
        """The node on which the cell trains, when it has a checkpoint."""
        wait_for(lambda: last_checkpoint(cell.folder) >= 4 and pid_of(cell.folder), 400)
        seen["first"] = pid_of(cell.folder)
        parents = {p.pid for p in psutil.Process(seen["first"]).parents()}
        (node,) = [n for n in nodes if n.all_processes["raylet"][0].process.pid in parents]
        cluster.remove_node(node, allow_graceful=False)
        seen["kept"] = last_checkpoint(cell.folder)
        wait_for(lambda: pid_of(cell.folder) not in (None, seen["first"]), 400)
        progress = read_progress(cell.folder)
        seen["second"], seen["step"] = progress["pid"], progress["step"]

    thread = threading.Thread(target=take_away)
    thread.start()
    environment = dict(RAY_ADDRESS=cluster.address, OMP_NUM_THREADS="1")
    try:
        said = python("-m", "fvlm", "grid", tmp_path / "grid.yaml", "--on", "ray", env=environment).stdout
    finally:
        thread.join(10)
        cluster.shutdown()
    assert "1 cells: 1 finished" in said and seen["second"] != seen["first"]
    assert seen["step"] > seen["kept"] >= 4, "it did not begin again"
    assert losses(cell.folder) == undisturbed(one_cell(tmp_path / "whole"))
    count("kill points")


# ── Slurm ────────────────────────────────────────────────────────────────────────────────────────

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm of one node, this machine: munge, a controller and a node's daemon, all in a folder of their
    own. Skips with the reason where that can't be."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons start jobs of users: that takes root")
    if shutil.which("apt-get") and not all(map(shutil.which, DAEMONS)):
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "slurm-wlm", "munge"],
        ):
            subprocess.run(command, capture_output=True, timeout=600)
    if missing := [name for name in DAEMONS if not shutil.which(name)]:
        pytest.skip(f"no {', '.join(missing)}: install Debian's slurm-wlm and munge")
    home, host = tmp_path / "slurm", socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "munge"):
        (home / name).mkdir(parents=True, mode=0o755)
    key = home / "munge/key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    here = dict(ControlMachinePort=free_port(), NodePort=free_port())
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    (home / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (home / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={here["ControlMachinePort"]}
SlurmdPort={here["NodePort"]}
AuthType=auth/munge
AuthInfo=socket={home}/munge/socket
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={megabytes} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    )
    monkeypatch.setenv("SLURM_CONF", str(home / "slurm.conf"))
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={home}/munge/socket"]
    munge += [f"--{name}-file={home}/munge/{name}" for name in ("pid", "log", "seed")]
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with open(home / f"{command[0]}.out", "w") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=home))
            time.sleep(2)
        deadline = time.monotonic() + 60
        while "idle" not in (said := told("sinfo", "-h", "-o", "%t")):
            if time.monotonic() > deadline:
                logs = [path.read_text(errors="replace")[-600:] for path in sorted(home.glob("*.[ol]*"))]
                pytest.skip(f"Slurm does not start here: {said} {logs}")
            time.sleep(0.5)
        yield
    finally:
        told("scancel", "--user", "root")
        time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def told(*command) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_a_cell_whose_time_is_over_is_queued_again_and_goes_on(slurm, tmp_path, count):
    """Its limit is cut short when it has a checkpoint, so that it comes in the midst of training however fast
    that is here; Slurm says so thirty to ninety seconds before. Up to ten minutes submitit calls a job that
    is asked to end one whose time is over."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    long = dict(steps=20_000, eval_every=200)
    grid = one_cell(tmp_path / "out", slurm=dict(timeout_min=10, slurm_signal_delay_s=30), **long)
    (cell,) = grid.cells
    seen = {}

    def cut_short():
        wait_for(lambda: last_checkpoint(cell.folder), 590)
        seen["first"] = pid_of(cell.folder)
        seen["job"] = re.search(r"JobId=(\d+)", told("scontrol", "show", "job"))[1]
        elapsed = told("squeue", "-h", "-o", "%M").strip()
        minutes = sum(60**i * int(part) for i, part in enumerate(reversed(elapsed.split(":")))) // 60
        told("scontrol", "update", f"JobId={seen['job']}", f"TimeLimit={minutes + 1}")
        wait_for(lambda: "Restarts=1" in told("scontrol", "show", "job", seen["job"]), 300)
        seen["kept"] = last_checkpoint(cell.folder)
        told("scontrol", "update", f"JobId={seen['job']}", "TimeLimit=600")
        wait_for(lambda: pid_of(cell.folder) not in (None, seen["first"]), 300)
        seen["step"] = read_progress(cell.folder)["step"]

    thread = threading.Thread(target=cut_short)
    thread.start()
    given = ("grid", tmp_path / "out/grid.yaml", "--on", "slurm")
    said = python("-m", "fvlm", *given, env=dict(OMP_NUM_THREADS="1"), timeout=1500).stdout
    thread.join(10)
    assert "1 cells: 1 finished" in said
    assert seen["step"] > seen["kept"] > 0, "it did not begin again"
    assert losses(cell.folder) == undisturbed(one_cell(tmp_path / "whole", **long))
    count("kill points")

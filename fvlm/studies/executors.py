"""Where a cell of a grid runs: processes on this machine, a Ray cluster, Slurm. One executed notebook either
way.

`python -m fvlm.studies.executors JOB.json` is the process that executes a cell's notebook, on whatever
machine: it writes `train.ipynb` and, in the end, `train.html` beside the cell's results, or why there is
none. It ends its kernel if that shows no sign of life for too long, and ends with its kernel if whoever
started it is gone."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fvlm.config import REPOSITORY, ConfigError
from fvlm.notebooks import import_jsonschema_quickly, write_html

NOTEBOOK = REPOSITORY / "notebooks" / "train.ipynb"

GRACE = 60  # seconds that a cell waits for an earlier process of its own to let go of its folder


@dataclass(frozen=True)
class Job:
    """One cell as a process is told of it."""

    parameters: dict  # of train.ipynb, `study` and `out` among them
    folder: str  # where its results go
    hang_minutes: float  # without a sign of life, before its kernel is ended
    cpus: int
    gpus: float
    memory: int  # bytes


def record_path(folder: Path) -> Path:
    """Where it is written why the run of `folder` failed."""
    return folder.parent / ".grid" / f"{folder.name}.json"


def write_record(folder: Path, reason: str, message: str, details: str = ""):
    """Why a run failed; reason: error, memory, killed, hung, lost or stopped."""
    from fvlm.files import write_json

    record_path(folder).parent.mkdir(parents=True, exist_ok=True)
    write_json(record_path(folder), dict(reason=reason, message=message, details=details, time=time.time()))


def read_record(folder: Path) -> dict | None:
    """What a cell failed of; None if it did not, or if its record can't be read: then it is tried again."""
    from fvlm.files import read_json_object

    try:
        record = read_json_object(record_path(folder))
    except ConfigError:
        return None
    return record if {"reason", "message", "time"} <= record.keys() else None


def execute(job: Job) -> bool:
    """Execute a cell's notebook into its folder. False, with a record of the reason, if it failed."""
    import_jsonschema_quickly()  # the notebook libraries do
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    record_path(folder).unlink(missing_ok=True)
    (folder / "train.html").unlink(missing_ok=True)
    _await_release(folder)
    kills = _oom_kills()
    watch = _Watch(folder, job.hang_minutes)
    try:
        execute_notebook(
            str(NOTEBOOK),
            str(folder / "train.ipynb"),
            parameters=portable_parameters(job),
            cwd=str(NOTEBOOK.parent),
            store_widget_state=False,
            progress_bar=False,
            log_output=False,
            request_save_on_cell_execute=False,
        )
        watch.end()
        write_html(folder / "train.ipynb")
        return True
    except PapermillExecutionError as error:
        reason = {
            "Stopped": "stopped",
            "OutOfMemory": "memory",
            "OutOfMemoryError": "memory",
            "MemoryError": "memory",
        }
        words = error.evalue.strip().splitlines() or [""]
        write_record(folder, reason.get(error.ename, "error"), f"{error.ename}: {words[0]}", str(error))
    except DeadKernelError as error:
        if not watch.hung:
            memory = _oom_kills() > kills
            message = "the system ended the kernel for lack of memory" if memory else "the kernel was killed"
            write_record(folder, "memory" if memory else "killed", message, str(error))
    except Exception as error:
        if not watch.hung:
            write_record(folder, "error", f"{type(error).__name__}: {error}", traceback.format_exc())
    finally:
        watch.end()
    return False


def portable_parameters(job: Job) -> dict:
    """A job's parameters as its notebook spells them out: where results go by default is `auto`, so that an
    executed notebook names no folder of the machine."""
    default = job.parameters["out"] == str(
        REPOSITORY / "outputs"
    )  # decided where it runs: a node may have its own checkout
    return job.parameters | ({"out": "auto"} if default else {})


def _await_release(folder: Path):
    """An earlier process of this run, whose grid was killed, may need a moment to notice."""
    from filelock import FileLock, Timeout

    try:
        FileLock(folder / ".lock", timeout=GRACE).acquire().lock.release()
    except Timeout:
        pass  # training itself says who holds it


class _Watch:
    """A thread that ends the kernel when the run shows no sign of life, and everything when its parent is
    gone."""

    def __init__(self, folder: Path, minutes: float):
        self.hung = False
        self._folder, self._limit, self._parent = folder, 60 * minutes, os.getppid()
        self._sign, self._over = time.time(), threading.Event()
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self):
        while not self._over.wait(0.5):
            if os.getppid() != self._parent:
                end_children()
                os._exit(1)
            if time.time() - self._last_sign() > self._limit:
                self.hung = True
                write_record(
                    self._folder,
                    "hung",
                    f"no sign of life for {self._limit / 60:.3g} min; the kernel was ended",
                )
                end_children()
                return

    def _last_sign(self) -> float:
        try:
            self._sign = max(self._sign, (self._folder / "progress.json").stat().st_mtime)
        except FileNotFoundError:  # not there yet, or gone because training is over and the notebook goes on
            pass
        return self._sign

    def end(self):
        self._over.set()


def end_children():
    """Kill all processes that come from this one."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            pass


def _oom_kills() -> int:
    """How many processes of this container the system has ended for lack of memory; 0 where it does not
    say."""
    events = Path("/sys/fs/cgroup/memory.events")
    if not events.exists():
        return 0
    return int(dict(line.split() for line in events.read_text().splitlines()).get("oom_kill", 0))


def start(job: Job, log: Path | None = None, gpus: list[int] | None = None) -> subprocess.Popen:
    """Start the process of a cell: in a session of its own, so that Ctrl-C reaches only who started it."""
    threads = str(max(1, job.cpus // job.parameters.get("processes", 1)))
    environment = os.environ | dict(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as spec:
        json.dump(asdict(job), spec)
    output = log.open("a") if log else subprocess.DEVNULL
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "fvlm.studies.executors", spec.name],
            cwd=REPOSITORY,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    finally:
        if log:
            output.close()


def main(spec: str) -> int:
    job = Job(**json.loads(Path(spec).read_text()))
    Path(spec).unlink()
    signal.signal(signal.SIGTERM, _end)
    return 0 if execute(job) else 1


def _end(*_):
    end_children()
    os._exit(143)


# ── This machine ──────────────────────────────────────────────────────────────


class Local:
    """Processes on this machine: as many cells at once as its cores, memory and GPUs hold, a GPU per large
    cell.

    With `jobs` the cores are shared among so many: a cell that would take them all gets its part."""

    def __init__(self, jobs: int | None = None):
        import torch

        from fvlm.costs.memory import available_memory, device_memory

        self.jobs, self.cpus = jobs, os.cpu_count() or 1
        self.memory = available_memory("cpu")
        self.gpu_memory = [device_memory(f"cuda:{i}") for i in range(torch.cuda.device_count())]
        self._running: dict[subprocess.Popen, tuple[Job, list[int]]] = {}

    def start(self, job: Job, log: Path) -> subprocess.Popen | None:
        """The cell's process; None while there is no room for it. A cell that fits nowhere runs alone."""
        if self.jobs is not None and len(self._running) >= self.jobs:
            return None
        jobs = [running for running, _ in self._running.values()]
        job = replace(job, cpus=min(job.cpus, max(1, self.cpus // (self.jobs or 1))))
        gpus = self._free_gpus(job)
        fits = sum(j.cpus for j in jobs) + job.cpus <= self.cpus or (self.jobs or 0) > 1
        fits = fits and (
            job.gpus > 0 or sum(j.memory for j in jobs if not j.gpus) + job.memory <= self.memory
        )
        if self._running and not (fits and gpus is not None):
            return None
        process = start(job, log, gpus)
        self._running[process] = job, gpus or []
        return process

    def _free_gpus(self, job: Job) -> list[int] | None:
        """Which GPUs a job gets: whole free ones, or for a small job one with room left. None: there are none
        now."""
        used = [0.0] * len(self.gpu_memory)
        for running, gpus in self._running.values():
            for gpu in gpus:
                used[gpu] += min(running.gpus, 1)
        if job.gpus == 0:
            return []
        wanted, share = max(1, round(job.gpus)), min(job.gpus, 1)
        free = [i for i, u in enumerate(used) if u + share <= 1 + 1e-6][:wanted]
        return free if len(free) == wanted else None

    def poll(self, process: subprocess.Popen) -> str | None:
        """None while it runs, then how it ended: "" if well, else in words."""
        status = process.poll()
        if status is None:
            return None
        self._running.pop(process, None)
        return (
            ""
            if status == 0
            else f"its process ended with {f'signal {-status}' if status < 0 else f'status {status}'}"
        )

    def kill(self, process: subprocess.Popen):
        """End a cell's process and its kernel at once."""
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()

    def close(self):
        for process in list(self._running):
            self.kill(process)


# ── Ray ───────────────────────────────────────────────────────────────────────


class Ray:
    """A Ray cluster: the running one (RAY_ADDRESS, or the one of this machine). Every node needs this
    repository and its environment. Results lie on shared storage, or are sent back where a node does not see
    it; a cell whose node is lost is started on another."""

    def __init__(self, jobs: int | None = None):
        try:
            import ray
        except ImportError:
            raise ConfigError("--on ray needs Ray: pip install -e '.[ray]'") from None
        self.ray, self.jobs, self._running = ray, jobs, {}
        if not ray.is_initialized():
            try:
                ray.init(
                    address=os.environ.get("RAY_ADDRESS", "auto"),
                    log_to_driver=False,
                    configure_logging=False,
                )
            except ConnectionError as error:
                raise ConfigError(
                    f"--on ray: no cluster to connect to; start one with `ray start --head` ({error})"
                ) from None

    def start(self, job: Job, log: Path):
        if self.jobs is not None and len(self._running) >= self.jobs:
            return None
        folder = Path(job.folder)
        token = folder.parent / ".grid" / "token"
        token.write_text(str(os.getpid()))
        wanted = dict(num_cpus=job.cpus, num_gpus=job.gpus, memory=job.memory, max_retries=3)
        remote = self.ray.remote(run_on_node).options(name=folder.name, **wanted)
        reference = remote.remote(asdict(job), str(token), token.read_text())
        self._running[reference] = job
        return reference

    def poll(self, reference) -> str | None:
        if not self.ray.wait([reference], timeout=0)[0]:
            return None
        job = self._running.pop(reference)
        try:
            results = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            return f"Ray: {type(error).__name__}: {str(error).splitlines()[0]}"
        if results is not None:
            unpack(results, Path(job.folder).parents[1])
        return "" if read_record(Path(job.folder)) is None else "failed"

    def kill(self, reference):
        self.ray.cancel(reference, force=True)

    def close(self):
        for reference in list(self._running):
            self.kill(reference)
        self.ray.shutdown()


def run_on_node(job: dict, token: str, expected: str) -> bytes | None:
    """Run a cell on a node of a cluster. None if it sees the results' folder, else what it left, to be
    unpacked there."""
    try:
        shared = Path(token).read_text() == expected
    except OSError:
        shared = False
    if shared:
        return run_here(job)
    with tempfile.TemporaryDirectory() as out:
        folder = Path(out) / job["parameters"]["study"] / Path(job["folder"]).name
        job = job | dict(parameters=job["parameters"] | dict(out=out), folder=str(folder))
        start(Job(**job)).wait()
        return pack(Path(out))


def run_here(job: dict):
    """Run a cell on a node that sees the results' folder, and wait for it."""
    start(Job(**job)).wait()


def pack(folder: Path) -> bytes:
    """A folder's files as one zip archive, without checkpoints and locks."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and not path.name.endswith(".lock") and "checkpoint" not in name.parts:
                archive.write(path, name)
    return buffer.getvalue()


def unpack(results: bytes, folder: Path):
    with zipfile.ZipFile(io.BytesIO(results)) as archive:
        archive.extractall(folder)


# ── Slurm ─────────────────────────────────────────────────────────────────────


SECONDS_TO_STOP = 60  # that a cell has to write a checkpoint when its job's time is over
MOST_TIMES = 1000  # that a job whose time was over is queued again


class OnSlurm:
    """`run_here` as a job: when its time is over, or others need the machine, the cell stops at a checkpoint
    and the job is queued again, from which the cell goes on."""

    def __init__(self):
        self.process = None

    def __call__(self, job: dict):
        self.process = start(Job(**job))
        self.process.wait()

    def checkpoint(self, job: dict):
        """What submitit asks for in a signal's handler: what is to be done when the job runs again."""
        import psutil
        from submitit.helpers import DelayedSubmission

        from fvlm.training.progress import request_stop

        folder = Path(job["folder"])
        if self.process is not None and folder.exists():
            with contextlib.suppress(psutil.NoSuchProcess):
                process, deadline = psutil.Process(self.process.pid), time.monotonic() + SECONDS_TO_STOP
                while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
                    request_stop(folder, now=True)  # again: a cell that only starts clears what was left over
                    time.sleep(0.2)
            (folder / "stop").unlink(missing_ok=True)
        return DelayedSubmission(OnSlurm(), job)


class Slurm:
    """Slurm, through submitit: a job per cell, queued again each time its time is over. `settings` are
    submitit's parameters (slurm_partition, timeout_min, …).

    cluster="local" runs the jobs as processes of this machine instead, which is how it is tested."""

    def __init__(
        self, folder: Path, jobs: int | None = None, settings: dict | None = None, cluster: str = "slurm"
    ):
        try:
            import submitit
        except ImportError:
            raise ConfigError("--on slurm needs submitit: pip install -e '.[slurm]'") from None
        self.jobs, self.settings, self._running = jobs, dict(timeout_min=24 * 60) | (settings or {}), []
        self._job_class = submitit.SlurmJob if cluster == "slurm" else submitit.LocalJob
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=MOST_TIMES)
        except RuntimeError as error:
            raise ConfigError(f"--on slurm: {error}") from None

    def start(self, job: Job, log: Path):
        if self.jobs is not None and len(self._running) >= self.jobs:
            return None
        known = log.with_suffix(".slurm")  # the job's number: it goes on when its grid does not
        submitted = self._adopt(known) or self._submit(job)
        known.write_text(submitted.job_id)
        self._running.append(submitted)
        return submitted

    def _adopt(self, known: Path):
        """The job that an earlier grid submitted for this cell, if it is still there."""
        if not known.exists():
            return None
        submitted = self._job_class(self._executor.folder, known.read_text())
        return None if submitted.done(force_check=True) else submitted

    def _submit(self, job: Job):
        self._executor.update_parameters(
            name=Path(job.folder).name,
            cpus_per_task=job.cpus,
            gpus_per_node=round(job.gpus + 0.499),
            mem_gb=-(-job.memory // 2**30),
            **self.settings,
        )
        return self._executor.submit(OnSlurm(), asdict(job))

    def poll(self, submitted) -> str | None:
        if not submitted.done():
            return None
        self._running.remove(submitted)
        error = submitted.exception()
        return f"Slurm job {submitted.job_id}: {error}" if error else ""

    def kill(self, submitted):
        submitted.cancel()

    def close(self):
        for submitted in self._running:
            submitted.cancel()


# Where `fvlm grid --on` can run cells, made of: the study's folder, how many cells at once, the grid file's
# `slurm`.
EXECUTORS = {
    "local": lambda folder, jobs, settings: Local(jobs),
    "ray": lambda folder, jobs, settings: Ray(jobs),
    "slurm": lambda folder, jobs, settings: Slurm(folder / ".grid" / "slurm", jobs, settings),
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

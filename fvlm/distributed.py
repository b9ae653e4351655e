"""Several processes, one GPU each, that share every step of one run: `processes=4`.

`train` starts them and waits; each then runs the same loop on its part of the same clips. Gradients are averaged by
data parallelism (`accelerate`), or weights, gradients and moments are sharded too (`fsdp=True`, for models that do not
fit one card; PyTorch's own FSDP, because accelerate's way to it is closed on a CPU, where it is tested). The effective
batch and the clips of a step do not depend on how many processes there are.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from fvlm.config import ConfigError, RunConfig


class Processes:
    """The processes that share a run, seen from one of them: `rank` of `world`. A run on its own has one."""

    def __init__(self, config: RunConfig):
        self.world, self.rank = int(os.environ.get("FVLM_PROCESSES", 1)), 0
        self._accelerator = None
        self.fsdp = config.fsdp and self.world > 1
        if self.world > 1:
            from accelerate import Accelerator, DistributedDataParallelKwargs

            unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # DINOv2's mask token
            self._accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision="no", kwargs_handlers=[unused])
            self.rank = self._accelerator.process_index

    @property
    def main(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def device(self, config: RunConfig) -> str:
        return str(self._accelerator.device) if self._accelerator else config.device

    def share(self, model):
        """What to call in the model's place."""
        if self._accelerator is None:
            return model
        if not self.fsdp:
            return self._accelerator.prepare(model)
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        for layer in model.llm.get_decoder().layers:  # gathered one at a time; all that is no LLM layer, together
            fully_shard(layer)
        fully_shard(model)
        register_fsdp_forward_method(model, "encode")  # evaluation calls it besides forward
        return model

    def bare(self, model):
        """The model itself, without what averages gradients."""
        return self._accelerator.unwrap_model(model) if self._accelerator and not self.fsdp else model

    @contextlib.contextmanager
    def accumulating(self, model, more_to_come: bool):
        """Inside, gradients stay here; they meet the other processes' once nothing more is to come. (FSDP's meet at once:
        no process has room for all of them.)"""
        if self._accelerator is None or self.fsdp or not more_to_come:
            yield
        else:
            with self._accelerator.no_sync(model):
                yield

    def sum(self, value: float) -> float:
        return float(sum(self.gather(value)))

    def gather(self, value) -> list:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def end(self):
        if self._accelerator is not None:
            torch.distributed.barrier()
            self._accelerator.end_training()

    # ── Weights and moments, whole, whichever process holds which part ───────────────────────────

    def settle(self, model):
        """Let every process hold its part of the weights alone again, after evaluation gathered some."""
        if self.fsdp:
            for module in model.modules():
                if hasattr(module, "reshard"):
                    module.reshard()

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A parameter or buffer on the CPU, gathered from all processes if it is sharded (all must ask)."""
        tensor = tensor.detach()
        return (tensor.full_tensor().clone() if hasattr(tensor, "full_tensor") else tensor).cpu().contiguous()

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """This process's part of a whole tensor, laid out like a parameter."""
        whole = whole.to(like.device)
        if not hasattr(like, "full_tensor") or not whole.dim():
            return whole
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def train_in_processes(config: RunConfig, on_progress: Callable | None):
    """Train a claimed run in `config.processes` processes and wait for them, passing their progress on.

    ConfigError and TrainingError as `train` raises them, with the processes' own words."""
    from fvlm.training import Progress, TrainingError, read_progress

    if config.effective_batch % config.processes:
        raise ConfigError(f"effective_batch = {config.effective_batch} can't be shared equally by {config.processes} processes")
    if config.device.startswith("cuda") and config.processes > torch.cuda.device_count():
        raise ConfigError(f"processes = {config.processes}: this machine has {torch.cuda.device_count()} GPUs")
    with tempfile.TemporaryDirectory() as scratch:
        spec, log = Path(scratch) / "config.json", Path(scratch) / "log"
        spec.write_text(json.dumps(config.to_dict()))
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={config.processes}",
            "--module", "fvlm.distributed", str(spec),
        ]  # fmt: skip
        threads = str(max(1, torch.get_num_threads() // config.processes))
        environment = os.environ | dict(
            FVLM_PROCESSES=str(config.processes), FVLM_LAUNCHER=str(os.getpid()), OMP_NUM_THREADS=threads
        )
        with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as child:
            try:
                told = 0, 0
                while True:
                    ended = child.poll() is not None
                    progress = read_progress(config.folder)
                    if on_progress and progress and (now := (progress["step"], len(progress["evaluations"]))) > told:
                        told = now
                        on_progress(Progress(**{field.name: progress[field.name] for field in dataclasses.fields(Progress)}))
                    if ended:
                        break
                    time.sleep(0.2)
            except BaseException:
                child.terminate()  # the launcher ends its processes
                raise
        if child.returncode:
            errors = [line.partition("error: ")[2] for line in log.read_text().splitlines() if line.startswith("error: ")]
            raise TrainingError(errors[0] if errors else f"one of {config.processes} processes ended: {log.read_text()[-2000:]}")


def main(spec: str) -> int:
    """One of the processes."""
    from fvlm.training import TrainingError, train_loop

    threading.Thread(target=_end_with, args=(int(os.environ["FVLM_LAUNCHER"]),), daemon=True).start()
    config = RunConfig.from_dict(json.loads(Path(spec).read_text()))
    processes = Processes(config)
    try:
        train_loop(config, None, processes)
    except Exception as error:
        if not isinstance(error, ConfigError | TrainingError):
            traceback.print_exc()
        print(f"error: {error or type(error).__name__}", file=sys.stderr, flush=True)
        return 1
    processes.end()
    return 0


def _end_with(launcher: int):
    """End this process once the one that started the run, and holds its lock, is gone."""
    import psutil

    while psutil.pid_exists(launcher) and psutil.Process(launcher).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

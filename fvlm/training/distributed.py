"""Several processes, one GPU each, that share every step of one run: `processes=4`.

`train` starts them and waits; each then runs the same loop on its part of the same clips. Gradients are
averaged by data parallelism (`accelerate`), or weights, gradients and moments are sharded too (`fsdp=True`,
for models that do not fit one card; PyTorch's own FSDP, because accelerate's way to it is closed on a CPU,
where it is tested). The effective batch and the clips of a step do not depend on how many processes there
are."""

import contextlib
import os

import torch

from fvlm.config import RunConfig


class Processes:
    """The processes that share a run, seen from one of them: `rank` of `world`. A run on its own has one."""

    def __init__(self, config: RunConfig):
        self.world_size, self.rank = int(os.environ.get("FVLM_PROCESSES", 1)), 0
        self._accelerator = None
        self.fsdp = config.fsdp and self.world_size > 1
        if self.world_size > 1:
            from accelerate import Accelerator, DistributedDataParallelKwargs

            unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # DINOv2's mask token
            self._accelerator = Accelerator(
                cpu=config.device == "cpu", mixed_precision="no", kwargs_handlers=[unused]
            )
            self.rank = self._accelerator.process_index

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files."""
        return self.rank == 0

    def device(self, config: RunConfig) -> str:
        return str(self._accelerator.device) if self._accelerator else config.device

    def wrap(self, model):
        """What to call in the model's place."""
        if self._accelerator is None:
            return model
        if not self.fsdp:
            return self._accelerator.prepare(model)
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        for (
            layer
        ) in model.llm.get_decoder().layers:  # gathered one at a time; all that is no LLM layer, together
            fully_shard(layer)
        fully_shard(model)
        register_fsdp_forward_method(model, "encode")  # evaluation calls it besides forward
        return model

    def unwrap(self, model):
        """The model itself, without what averages gradients."""
        return self._accelerator.unwrap_model(model) if self._accelerator and not self.fsdp else model

    @contextlib.contextmanager
    def no_sync(self, model, more_to_come: bool):
        """Inside, gradients stay here; they meet the other processes' once nothing more is to come. (FSDP's
        meet at once: no process has room for all of them.)"""
        if self._accelerator is None or self.fsdp or not more_to_come:
            yield
        else:
            with self._accelerator.no_sync(model):
                yield

    def all_reduce(self, value: float) -> float:
        return float(sum(self.all_gather(value)))

    def all_gather(self, value) -> list:
        """Every process's value, by rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def end(self):
        if self._accelerator is not None:
            torch.distributed.barrier()
            self._accelerator.end_training()

    # ── Weights and moments, whole, whichever process holds which part ───────────────────────────

    def reshard(self, model):
        """Let every process hold its part of the weights alone again, after evaluation gathered some."""
        if self.fsdp:
            for module in model.modules():
                if hasattr(module, "reshard"):
                    module.reshard()

    def full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A parameter or buffer on the CPU, gathered from all processes if it is sharded (all must ask)."""
        tensor = tensor.detach()
        if hasattr(tensor, "full_tensor"):
            tensor = tensor.full_tensor().clone()  # pyright: ignore[reportAttributeAccessIssue]
        return tensor.cpu().contiguous()

    def distribute_tensor(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """This process's part of a whole tensor, laid out like a parameter."""
        whole = whole.to(like.device)
        if not hasattr(like, "full_tensor") or not whole.dim():
            return whole
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(like, DTensor)

        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)

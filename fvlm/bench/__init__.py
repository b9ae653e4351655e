"""Measurements of this machine, each against its own ceiling in the same run: one module per kind."""

from fvlm.bench.data import bench_data
from fvlm.bench.evaluate import bench_evaluate
from fvlm.bench.features import bench_features
from fvlm.bench.gaze import bench_gaze
from fvlm.bench.generate import bench_generate
from fvlm.bench.gpu import bench_gpu
from fvlm.bench.peers import bench_peers
from fvlm.bench.scaling import bench_scaling
from fvlm.bench.stream import bench_stream
from fvlm.bench.train import bench_train, compare_train

__all__ = [
    "bench_data",
    "bench_evaluate",
    "bench_features",
    "bench_gaze",
    "bench_generate",
    "bench_gpu",
    "bench_peers",
    "bench_scaling",
    "bench_stream",
    "bench_train",
    "compare_train",
]

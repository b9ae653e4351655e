"""Measurements of this machine, each against its own ceiling in the same run: one module per kind."""

from fvlm.bench.data import bench_data
from fvlm.bench.features import bench_features
from fvlm.bench.gaze import bench_gaze
from fvlm.bench.train import bench_train

__all__ = ["bench_data", "bench_features", "bench_gaze", "bench_train"]

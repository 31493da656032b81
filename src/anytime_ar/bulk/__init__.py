"""Bulk work: many samples of a model, or the codes of a whole data set, in shards that are written
once, whatever is killed on the way."""

from __future__ import annotations

from anytime_ar.bulk.asking import encode_job, sample_job
from anytime_ar.bulk.jobs import BulkJob, EncodeJob, SampleJob, ShardingConfig
from anytime_ar.bulk.ray_pool import RayPoolConfig
from anytime_ar.bulk.running import BulkReport, EngineName, run

__all__ = [
    "BulkJob",
    "BulkReport",
    "EncodeJob",
    "EngineName",
    "RayPoolConfig",
    "SampleJob",
    "ShardingConfig",
    "encode_job",
    "run",
    "sample_job",
]

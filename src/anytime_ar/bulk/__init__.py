"""Bulk jobs: many samples of a model, or the codes of a data set, written in shards.

A job that is killed resumes with the shards that are missing.
"""

from __future__ import annotations

from anytime_ar.bulk.jobs import (
    BulkJob,
    EncodeJob,
    SampleJob,
    ShardingConfig,
    encode_job,
    sample_job,
)
from anytime_ar.bulk.runner import BulkReport, EngineName, run
from anytime_ar.bulk.workers import RayPoolConfig

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

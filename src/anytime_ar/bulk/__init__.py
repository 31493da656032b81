"""Bulk work: many samples of a model, or the codes of a whole data set, in shards that are written
once, whatever is killed on the way."""

from __future__ import annotations

from anytime_ar.bulk.asking import encode_job, sample_job
from anytime_ar.bulk.jobs import EncodeJob, Job, Layout, SampleJob
from anytime_ar.bulk.ray_pool import Pool
from anytime_ar.bulk.running import EngineName, Report, run

__all__ = [
    "EncodeJob",
    "EngineName",
    "Job",
    "Layout",
    "Pool",
    "Report",
    "SampleJob",
    "encode_job",
    "run",
    "sample_job",
]

"""Where a worker is in its life."""

from enum import Enum


class WorkerState(Enum):
    """Where a worker is in its life; gateways know the same words. Only a ready one gets requests."""

    STARTING = "starting"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    SLEEPING = "sleeping"
    DRAINING = "draining"
    FAILED = "failed"

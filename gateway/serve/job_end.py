"""The end of a job, from its kept result: the one place that closes its bill."""

from gateway.core.jobs import JobResult
from gateway.ports.jobs import JobStore
from gateway.serve.job_archive import JobArchive
from gateway.serve.plane import Plane


async def end_job(store: JobStore, archive: JobArchive, plane: Plane, pool: str, result: JobResult) -> None:
    """
    Close the bill by what is kept, forget the body, tell the store.

    In this order each step may be done again, by any gateway, and changes nothing. Raises StoreUnavailable at the step
    that must be done again. The job is counted and logged by whoever tells the store first.
    """
    job_id = result.event.id
    plane.holds.close(result.event)
    await plane.metering.spool.close(result.event)
    await archive.drop_request(job_id)
    if await store.finish(pool, job_id, result.state):
        plane.metering.metrics.count_job(result.state.value)
        plane.metering.ended(result.event, None, is_known=True)

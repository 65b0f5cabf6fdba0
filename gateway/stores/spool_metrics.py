"""What Prometheus sees of the spool and the way from it into the database."""

from gateway.stores.shipper import Shipper
from gateway.stores.spool import FileSpool
from gateway.telemetry.metrics import Metrics


def watch_spool(metrics: Metrics, spool: FileSpool, shipper: Shipper) -> None:
    """Show the state of *spool* and *shipper* with each scrape."""
    _watch_state(metrics, spool, shipper)
    _watch_counts(metrics, spool, shipper)


def _watch_state(metrics: Metrics, spool: FileSpool, shipper: Shipper) -> None:
    watch, opens = metrics.watch, spool.requests
    watch("sluice_spool_backlog_events", "Not yet in the Journal.", None, lambda: {"": shipper.backlog_events})
    watch("sluice_spool_backlog_bytes", "On disk.", None, lambda: {"": shipper.backlog_bytes})
    watch("sluice_spool_backlog_age_seconds", "Age of the oldest.", None, lambda: {"": shipper.backlog_age_s})
    watch("sluice_spool_writable", "1 if the spool takes events.", None, lambda: {"": spool.is_writable})
    watch("sluice_spool_disk_free_bytes", "Of its file system.", None, lambda: {"": spool.disk_free_bytes})
    watch("sluice_spool_open_requests", "Dispatched, not ended.", None, lambda: {"": len(opens)})
    watch("sluice_spool_open_shipped_requests", "Of them, in SQL.", None, lambda: {"": opens.shipped_count})
    watch(
        "sluice_spool_quarantined_segments",
        "Damaged segments that are kept for a person.",
        None,
        lambda: {"": shipper.quarantined_segments},
    )


def _watch_counts(metrics: Metrics, spool: FileSpool, shipper: Shipper) -> None:
    count, opens = metrics.watch_count, shipper.opens
    count("sluice_spool_shipped_events", "Sent to the Journal and committed.", lambda: shipper.shipped_events)
    count("sluice_spool_replayed_events", "Of them, known to it before.", lambda: shipper.replayed_events)
    count("sluice_spool_recovered_events", "New ones, of dead gateways.", lambda: shipper.recovered_events)
    count("sluice_spool_torn_bytes", "Writes that a crash cut short.", lambda: shipper.torn_bytes)
    count("sluice_spool_damaged_bytes", "Unreadable otherwise.", lambda: shipper.damaged_bytes)
    count("sluice_spool_notes_dropped", "Denials not recorded for want of disk.", lambda: spool.notes_dropped)
    if opens:
        count("sluice_spool_expired_requests", "Settled as their gateway was gone.", lambda: opens.expired)
        count("sluice_spool_late_closes", "Events that came after that.", lambda: opens.late_closes)

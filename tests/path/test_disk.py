"""A gateway whose spool's disk is nearly full, or has rotted."""

import httpx

from gateway.stores.spool_format import encode_close
from tests.meter_events import event
from tests.spool.test_recovery import abandoned, flipped
from tests.waiting import until

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "river"}], "max_tokens": 2}


async def test_a_client_and_readiness_are_told_that_the_disk_has_no_room(start_path):
    async with start_path(count=1, spool={"ship_interval_s": 0.02, "free_bytes_min": 1 << 60}) as path:
        headers = {"authorization": f"Bearer {path.key}"}
        async with httpx.AsyncClient(base_url=path.url, headers=headers) as client:
            refused = await client.post("/v1/chat/completions", json=BODY)
            ready = await client.get("/readyz")
            metrics = (await client.get("/metrics")).text
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "spool_unavailable")
        assert "bytes free, less than" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "5"
        assert await path.engines[0].journal() == []
        spool = ready.json()["components"]["spool"]
        assert (ready.status_code, spool["ok"], spool["state"]) == (503, False, "disk_low")
        assert spool["disk_free_bytes"] > 0
        assert "sluice_spool_writable 0.0" in metrics
        assert "sluice_spool_notes_dropped_total 1.0" in metrics
        assert not path.gateway._admission.queues, "it did not stand in line for it"


async def test_damage_that_a_gateway_finds_is_shown_by_readiness_and_metrics(start_path, tmp_path):
    whole, rotten = encode_close(event(1)), flipped(encode_close(event(2)), 100)
    abandoned(tmp_path / "spool", whole + rotten + encode_close(event(3)))
    async with start_path(count=1) as path, httpx.AsyncClient(base_url=path.url) as client:
        assert {event(1).id, event(3).id} == (await path.events()).keys()
        await until(lambda: path.gateway._shipper.quarantined_segments)
        spool = (await client.get("/readyz")).json()["components"]["spool"]
        metrics = (await client.get("/metrics")).text
    assert (spool["ok"], spool["state"], spool["quarantined_segments"]) == (True, "ok", 1)
    assert "sluice_spool_quarantined_segments 1.0" in metrics
    assert f"sluice_spool_damaged_bytes_total {float(len(rotten))}" in metrics
    assert "sluice_spool_recovered_events_total 2.0" in metrics

"""What operators do in a rolling update, on an installation of real processes."""

from collections.abc import Sequence

from tests.servers.installation import ADMIN_TOKEN, GatewayServer, Installation, WorkerServer


def drain(installation: Installation, gateway: GatewayServer, worker: WorkerServer) -> None:
    """Drain a worker as an operator does, asking *gateway*, and wait until it has ended."""
    installation.environ |= {"SLUICE_PORT": str(gateway.port), "SLUICE_ADMIN_TOKEN": ADMIN_TOKEN}
    [ended] = installation.sluice_json("worker", "drain", worker.name, "--wait", "--timeout-s", "120")
    assert ended["state"] == "ended"
    assert worker._process.wait(60) == 0


def replace_workers(installation: Installation, gateway: GatewayServer, *options: str) -> None:
    """Replace the workers that run, one by one, by others that are warm before the first of them drains."""
    old = [worker for worker in installation.workers if worker.is_running]
    new = {installation.add_worker("sim", *options).name for _ in old}
    gateway.wait_until("told of the new ones", lambda: new <= set(gateway.ready_workers()), 120)
    for worker in old:
        drain(installation, gateway, worker)


def restart(gateways: Sequence[GatewayServer]) -> None:
    """Restart one gateway after the other; the next one goes when the last one serves again."""
    for gateway in gateways:
        assert gateway.stop(within_s=120) == 0
        gateway.start()
        gateway.wait_until("back with its workers", lambda g=gateway: len(g.ready_workers()) >= 2, 60)

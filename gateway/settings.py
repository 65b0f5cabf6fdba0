"""
Settings: the only reader of the environment and of sluice.yaml; one frozen, validated tree.

`SLUICE_*` variables override sluice.yaml, which overrides the defaults below. A nested name takes two underscores:
`SLUICE_QUEUE__WAITING_MAX=500` is `queue: {waiting_max: 500}`. A name that is not known is an error that says
which, and where it stands. The sections beside the settings declare pools, which control/pool_file.py reads.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from gateway.errors import InvalidInput
from gateway.marked_yaml import Marked, at_line, did_you_mean, read_yaml
from gateway.redis_url import RedisUrl

ENV_PREFIX = "SLUICE_"
CONFIG_VARIABLE = "SLUICE_CONFIG"  # where sluice.yaml is, if not in the working folder
CONFIG_FILE = "sluice.yaml"
POOL_SECTIONS = ("pools", "models", "prices")  # of sluice.yaml, no settings: `sluice apply` declares them


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WaitSettings(_Section):
    """How long a request may wait in line, by class; one that is expected to wait longer is refused at once."""

    interactive: float = Field(300.0, gt=0, description="Seconds a request of this class may wait for its turn.")
    standard: float = Field(900.0, gt=0, description="The same.")
    batch: float = Field(3600.0, gt=0, description="The same.")


class HoldSettings(_Section):
    """How long a request waits for a pool that has no ready worker, by class; then it is refused with 503."""

    interactive: float = Field(120.0, ge=0, description="Seconds a request of this class waits for a first worker.")
    standard: float = Field(300.0, ge=0, description="The same.")
    batch: float = Field(3600.0, ge=0, description="The same.")


class QueueSettings(_Section):
    """The line in front of each pool."""

    waiting_max: int = Field(20_000, ge=0, description="Tickets that may wait per pool; one more is refused with 429.")
    tenant_share: float = Field(0.5, gt=0, le=1, description="The part of those places that one tenant may fill.")
    lease_s: float = Field(3.0, gt=0.5, le=3.3, description="A gateway silent for this long loses tickets and slots.")
    store_timeout_s: float = Field(0.5, gt=0, description="A Redis call that takes longer counts as Redis being down.")
    headers_hold_s: float = Field(
        2.0,
        gt=0,
        le=2.7,
        description="A stream that waits gets its headers after this long; refusals before keep theirs.",
    )
    keep_alive_s: float = Field(
        10.0, gt=0, le=50, description="The longest silence of a stream that waits: proxies cut it off after 60 s."
    )
    wait_s_max: WaitSettings = WaitSettings()
    hold_s_max: HoldSettings = HoldSettings()


class UpstreamSettings(_Section):
    """The connections to the engines."""

    connect_timeout_s: float = Field(2.0, gt=0, description="A worker that takes longer to connect to has failed.")
    connections_max: int = Field(1024, ge=1, description="Connections of one gateway to one worker, idle or not.")
    ca_file: Path | None = Field(
        None, description="Authority (PEM) of certificates that engines show, beside those that the system knows."
    )
    header_timeout_s: float = Field(
        60.0, gt=0, description="The head of a stream, which engines send before they compute: one that hangs does not."
    )
    first_byte_timeout_s: float = Field(600.0, gt=0, description="OpenAI's SDKs wait 600 s by default.")
    idle_timeout_s: float = Field(120.0, gt=0, description="The longest silence inside a stream.")
    keep_alive_s: float = Field(4.0, gt=0, description="Below uvicorn's 5 s, so that we are the one that closes.")
    attempts_max: int = Field(2, ge=1, le=5, description="Workers tried before the first byte.")
    retry_share: float = Field(
        0.2, ge=0, le=1, description="Of a pool's requests of the last 10 s, the part that may be tried elsewhere …"
    )
    retries_min: int = Field(300, ge=0, description="… and so many more: what one worker may have when it fails.")
    continuations_max: int = Field(
        3, ge=0, le=10, description="Other workers that may go on with a stream whose worker fails; 0 for none."
    )
    continuation_wait_s: float = Field(
        5.0, ge=0, description="How long such a stream waits for there to be another worker."
    )
    hedge_share: float = Field(
        0.0, ge=0, le=0.5, description="The part of a pool's streams that may go to a second worker when late, or 0 …"
    )
    hedge_after_s_min: float = Field(1.0, gt=0, description="… but none sooner than this; what is late is learnt.")
    suspect_s: float = Field(5.0, gt=0, description="A worker that failed a request is ranked last for this long.")
    credit: Literal["adaptive", "fixed", "off"] = Field(
        "fixed",
        description="What a worker is given at once: by its behaviour, by its engine's limits, or without a limit.",
    )
    credit_wait_s: float = Field(
        2.0, gt=0, description="A request for which no worker has credit takes the least loaded one after this long."
    )
    routing: Literal["sluice", "least_load", "round_robin", "power_of_two", "chwbl", "sglang", "random"] = Field(
        "sluice", description="Which of the workers with credit gets a request: see [Routing](#routing)."
    )
    cost_weights: dict[str, float] = Field(
        {}, description="What a worker's time costs beside others', by patterns of names: `h100-*: 2.0`; none: 1."
    )

    @property
    def hedge_rules(self) -> dict[str, Any]:
        """When a late stream is given to a second worker: what core/hedging.py goes by."""
        return {"share": self.hedge_share, "after_s_min": self.hedge_after_s_min}

    @property
    def placement_rules(self) -> dict[str, Any]:
        """How requests meet workers: what serve/placement.py goes by."""
        return {"wait_s_max": self.credit_wait_s, "policy": self.routing, "cost_weights": self.cost_weights}


class HealthSettings(_Section):
    """When a worker that fails its requests is ejected, and how it comes back."""

    faults_in_row: int = Field(5, ge=1, description="A worker with so many faults of its own in a row is ejected …")
    fault_share: float = Field(0.5, gt=0, le=1, description="… or one with this part of faults among its answers …")
    answers_min: int = Field(20, ge=1, description="… if there were so many answers …")
    window_s: float = Field(30.0, gt=0, description="… within this time.")
    ejection_s: float = Field(10.0, gt=0, description="How long it gets nothing; doubles with each ejection …")
    ejection_s_max: float = Field(300.0, gt=0, description="… up to this. Then one request at a time tries it.")
    pool_share_max: float = Field(
        0.5, ge=0, lt=1, description="The part of a pool's ready workers that may be ejected, rounded down."
    )
    slow_start_s: float = Field(
        15.0, ge=0, description="A worker that became ready or came back has all its credit after this long; 0: now."
    )


class SpoolSettings(_Section):
    """The local file of meter events and its way into SQL."""

    commit_interval_ms: float = Field(
        0.0,
        ge=0,
        le=5.0,
        description="Least time between two syncs; what ends during a sync shares the next one anyway.",
    )
    segment_bytes: int = Field(8 << 20, ge=4096, description="A segment file is closed at this size.")
    bytes_max: int = Field(2 << 30, ge=1 << 20, description="Above this no request is admitted until it shrinks.")
    free_bytes_min: int = Field(
        256 << 20, ge=0, description="With less of its disk free no request is admitted: it is for those under way."
    )
    progress_tokens: int = Field(256, ge=1, description="An open stream notes its usage every so many tokens …")
    progress_s: float = Field(5.0, gt=0, description="… or seconds: what a crash may cost of it.")
    ship_interval_s: float = Field(0.5, gt=0, description="How often closed events go into SQL.")
    ship_batch: int = Field(1000, ge=1, description="The most events of one transaction.")
    open_ship_after_s: float = Field(
        10.0, gt=0, description="A request that is open for longer is written to SQL, lest this disk be lost."
    )
    open_lease_s: float = Field(
        3600.0, ge=60, description="One that its gateway did not renew for so long is settled by any other."
    )


class JobSettings(_Section):
    """The async lane: requests that are taken in for later."""

    concurrency: int = Field(64, ge=1, le=1000, description="Jobs that one gateway runs at once.")
    waiting_max: int = Field(100_000, ge=0, description="Jobs that may wait per pool; one more is refused with 429.")
    limit_s: float = Field(86_400, ge=1, le=86_400, description="A job that could not be served for this long fails.")
    attempts_max: int = Field(3, ge=1, description="Runs of a job that its workers or gateways fail.")
    lease_s: float = Field(5.0, ge=1, description="A gateway silent for this long loses its jobs to the others.")
    result_kept_s: float = Field(86_400, ge=1, description="How long a result is kept from the end of its job.")
    objects_dir: str = Field("", description="Bodies and results: a folder all gateways share; empty: under home.")
    free_bytes_min: int = Field(1 << 30, ge=0, description="With less of that disk free no job is taken in.")
    webhook_secret: SecretStr | None = Field(None, description="Tenants' webhook secrets derive from it; unset: none.")
    webhook_retry_s: float = Field(43_200, ge=0, description="How long a webhook is tried from the end of its job.")
    webhook_pause_s: float = Field(5.0, gt=0, description="Before the second try; doubles with each, up to an hour.")
    webhook_timeout_s: float = Field(10.0, gt=0, le=30, description="A receiver that takes longer has failed.")
    allows_http_webhooks: bool = Field(False, description="Let webhooks go to http:// addresses.")
    allows_private_webhooks: bool = Field(
        False, description="Let webhooks go to loopback, link-local and private addresses: whoever has a key may then."
    )

    @property
    def webhook_rules(self) -> dict[str, Any]:
        """Who may be told by a webhook, and how hard it is tried: what serve/webhooks.py goes by."""
        return {
            "secret": self.webhook_secret.get_secret_value() if self.webhook_secret else "",
            "allows_http": self.allows_http_webhooks,
            "allows_private": self.allows_private_webhooks,
            "timeout_s": self.webhook_timeout_s,
            "pause_s": self.webhook_pause_s,
            "retry_s": min(self.webhook_retry_s, self.result_kept_s),
        }

    @property
    def address_rules(self) -> tuple[bool, bool, bool]:
        """Whether there is a secret to sign webhooks with, whether they go to http:// and to private addresses."""
        return self.webhook_secret is not None, self.allows_http_webhooks, self.allows_private_webhooks


class RosterSettings(_Section):
    """Workers' leases."""

    lease_s: float = Field(4.0, gt=0, description="A worker silent for this long is no longer listed.")
    refresh_s: float = Field(0.1, gt=0, description="How often gateways tell one another of their workers.")


class ScaleSettings(_Section):
    """How many workers pools should have; `drain_s` and `down_s` count for all, the rest for pools not declared."""

    workers_min: int = Field(1, ge=0, description="The least workers of a pool; 0: none while nobody asks.")
    workers_max: int = Field(0, ge=0, description="The most; 0: as many as run, then nobody scales the pool.")
    drain_s: float = Field(60.0, gt=0, description="Within how long workers are to work off what waits.")
    down_s: float = Field(60.0, ge=1, description="Arrivals must have asked for fewer workers this long before any go.")
    idle_s: float = Field(300.0, ge=0, description="The last worker goes when nobody has asked for so long.")


class BudgetSettings(_Section):
    """What requests on budgets go by."""

    max_tokens_default: int = Field(
        4096, ge=1, description="max_tokens of a request on a hard budget that does not say: it must have a bound."
    )


class ReconcileSettings(_Section):
    """The engines' counters against what was metered."""

    alarm_ratio: float = Field(
        0.001, ge=0, description="Unexplained tokens are too many above this part of what a worker's engine made …"
    )
    alarm_tokens: int = Field(10_000, ge=0, description="… or above this number.")
    every_s: float = Field(60.0, gt=0, description="How often a gateway compares, for its metrics and its alarm.")
    window_s: float = Field(3600.0, gt=0, le=86_400, description="How long the stretch is that it compares.")
    lag_s: float = Field(600.0, ge=0, description="How long ago that ends: what began in it should have ended.")


class HubSettings(_Section):
    """Where models come from, for `sluice models`, `sluice up` and `sluice worker`."""

    dir: str = Field("", description="Pulled models: a folder or volume that many may share; empty: under home.")
    endpoint: str = Field("", description="Address of the hub; empty: MODELSCOPE_ENDPOINT, else modelscope.cn.")
    token: SecretStr | None = Field(None, description="For private models; unset: MODELSCOPE_API_TOKEN or a login.")


class Settings(_Section):
    """Everything that can be set."""

    home: Path = Field(Path(".sluice"), description="State of `sluice up`: database, spool, models, logs, keys.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    gateway_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="Unique; unset: host and process id.",
    )
    database_url: str = Field("", description="SQLAlchemy URL; empty means SQLite under home.", repr=False)
    redis_url: RedisUrl = Field(
        "",
        description="Of Redis, its sentinels or a cluster; empty: a single gateway with its queue in memory.",
        repr=False,
    )
    admin_token: SecretStr | None = Field(None, description="Bearer of /admin/v1 and /finance/v1; unset closes both.")
    worker_token: SecretStr | None = Field(None, description="Bearer of /internal/v1; unset closes it.")
    directory_poll_s: float = Field(0.25, gt=0, le=0.5, description="A revoked key stops within 1 s: keep below 0.5.")
    database_timeout_s: float = Field(3.0, gt=0, description="A transaction that takes longer has failed.")
    zone: str = Field("UTC", description="IANA time zone of reports and statements, such as Asia/Shanghai.")
    shares_prefix_cache: bool = Field(
        False, description="Let tenants hit one another's cached prefixes: faster, but hits can be timed."
    )
    body_bytes_max: int = Field(16 << 20, ge=1024, description="A longer request body is refused with 413.")
    drain_announce_s: float = Field(
        1.0, ge=0, description="On SIGTERM, how long all is served with /readyz at 503: for load balancers to notice."
    )
    drain_s: float = Field(30.0, ge=0, description="How long SIGTERM waits after that for answers to end.")
    log_format: Literal["json", "console"] = Field("json", description="One JSON object a line, or text for eyes.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    queue: QueueSettings = QueueSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    health: HealthSettings = HealthSettings()
    spool: SpoolSettings = SpoolSettings()
    roster: RosterSettings = RosterSettings()
    jobs: JobSettings = JobSettings()
    scale: ScaleSettings = ScaleSettings()
    budgets: BudgetSettings = BudgetSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    hub: HubSettings = HubSettings()

    @property
    def sql_url(self) -> str:
        """The database's URL, the default filled in."""
        return self.database_url or f"sqlite:///{self.home.absolute() / 'sluice.db'}"

    @property
    def spool_dir(self) -> Path:
        """Where the spools of this host's gateways lie, one folder each."""
        return self.home / "spool"

    @property
    def objects_dir(self) -> Path:
        """Where the bodies and results of jobs lie."""
        return Path(self.jobs.objects_dir) if self.jobs.objects_dir else self.home / "objects"

    @property
    def models_dir(self) -> Path:
        """Where pulled models lie."""
        return Path(self.hub.dir) if self.hub.dir else self.home.absolute() / "models" / "hub"

    @property
    def snapshot_path(self) -> Path:
        """Where the Directory's last snapshot is kept for a start without the database."""
        return self.home / "directory.json"


def load_settings(environ: Mapping[str, str] = os.environ, config: Path | None = None, **overrides: Any) -> Settings:
    """
    Read sluice.yaml, then the environment, then *overrides* (command-line options; None means not given).

    Raises InvalidInput naming the setting, its value and where it came from.
    """
    written = read_config(config_path(environ, config), must_exist=config is not None or CONFIG_VARIABLE in environ)
    tree = _settings_of(written)
    for name, value in environ.items():
        if name.startswith(ENV_PREFIX) and name != CONFIG_VARIABLE:
            _put(tree, name.removeprefix(ENV_PREFIX).lower().split("__"), value)
    tree.update({name: value for name, value in overrides.items() if value is not None})
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise InvalidInput("; ".join(_explain(problem, written, environ) for problem in _problems(error))) from error


def config_path(environ: Mapping[str, str] = os.environ, config: Path | None = None) -> Path:
    """Tell where sluice.yaml is, or would be."""
    return config or Path(environ.get(CONFIG_VARIABLE, CONFIG_FILE))


def read_config(path: Path, *, must_exist: bool = True) -> Marked:
    """Read a sluice.yaml with its places; nothing is checked yet but that it is YAML. Raises InvalidInput."""
    if not path.exists() and not must_exist:
        return read_yaml(b"", str(path))
    try:
        return read_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}. Check the path and its permissions.") from error


def settings_flaws(written: Marked) -> list[tuple[Marked, str, str]]:
    """List what is wrong with the settings of a file alone: where, the setting's name, what about it."""
    try:
        Settings.model_validate(_settings_of(written))
    except ValidationError as error:
        return [(written.find(names), ".".join(names), message) for names, message in _problems(error)]
    return []


def _settings_of(written: Marked) -> dict[str, Any]:
    return {name: each.plain() for name, each in written.value.items() if name not in POOL_SECTIONS}


def _put(tree: dict[str, Any], names: list[str], value: str) -> None:
    for name in names[:-1]:
        branch = tree.setdefault(name, {})
        if not isinstance(branch, dict):
            raise InvalidInput(f"{ENV_PREFIX}{'__'.join(names).upper()}: {name!r} is not a section of the settings.")
        tree = branch
    tree[names[-1]] = value


def _problems(error: ValidationError) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the names of each wrong setting and what is wrong with it; never its value, which may be a secret."""
    for problem in error.errors(include_input=False, include_url=False):
        names = tuple(str(part) for part in problem["loc"])
        is_unknown = problem["type"] == "extra_forbidden"
        yield names, f"is not a setting.{did_you_mean(names[-1], _known(names[:-1]))}" if is_unknown else problem["msg"]


def _known(names: tuple[str, ...]) -> list[str]:
    """List the settings of a section, and the other sections of the file beside those at the top."""
    section: Any = Settings
    for name in names:
        section = section.model_fields[name].annotation
    return [*section.model_fields, *(() if names else POOL_SECTIONS)]


def _explain(problem: tuple[tuple[str, ...], str], written: Marked, environ: Mapping[str, str]) -> str:
    """Say what is wrong with a setting and where it was set: a variable goes before the file."""
    names, message = problem
    variable = ENV_PREFIX + "__".join(names).upper()
    found = written.find(names)
    if variable not in environ and found.path == names:
        spot = found.named_at if message.startswith("is not") else found.spot
        return at_line(written.file, spot, ".".join(names), message)
    return f"{'.'.join(names)}: {message} (in {variable})"

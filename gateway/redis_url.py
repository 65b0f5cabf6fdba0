"""
The forms of `redis_url`: one Redis, the sentinels that know where it is, or the servers of a cluster.

Settings check it by this, stores read it by this; the clients of the last two are stores/redis_sentinel.py and
stores/redis_cluster.py.
"""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

PORT, SENTINEL_PORT = 6379, 26379
SENTINEL_OPTIONS = ("sentinel_password", "sentinel_username")
OPTIONS = (
    "client_name",
    "db",
    "health_check_interval",
    "max_connections",
    "password",
    "protocol",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_timeout",
    "username",
)
TLS_OPTIONS = (
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_min_version",
)
REDIS_URL_FORM = (
    "must be redis://[user:password@]host:6379/0, or with Sentinel redis+sentinel://[user:password@]host:26379,"
    "host:26379/name-of-the-master/0, with ?sentinel_password=… if the sentinels have one, or to a cluster "
    "redis+cluster://[user:password@]host:6379,host:6379; rediss for TLS, unix:// for a socket. In passwords, / ? # "
    "and @ are written %2F %3F %23 %40"
)
_UNKNOWN = "has an option that connections of this kind do not take{meant}; they take {known}"
_USER, _HOST = r"([^\s/?#]*@)?", r"([\w.%-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?"
_ONE = re.compile(rf"rediss?://{_USER}({_HOST})?(/\S*)?(\?\S*)?|unix://\S+")
_SENTINELS = re.compile(rf"rediss?\+sentinel://{_USER}{_HOST}(,{_HOST})*/[^\s/?#]+(/\d*)?(\?\S*)?")
_CLUSTER = re.compile(rf"rediss?\+cluster://{_USER}{_HOST}(,{_HOST})*(/0?)?(\?\S*)?")  # it has no other database


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """
    What a `redis+sentinel://` URL says; passwords are in none of what it shows.

    *one* is the URL of a single Redis that says all the rest of it, in place of the master, which nobody knows yet.
    """

    sentinels: tuple[tuple[str, int], ...]
    master: str
    one: str = field(repr=False)
    sentinel_options: dict[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Self | None:
        """Read *url*, whose form is known to be right; None if it names a single Redis."""
        if not _SENTINELS.fullmatch(url):
            return None
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        master, _, db = parts.path[1:].partition("/")
        query = parse_qsl(parts.query)
        rest = urlencode([(name, value) for name, value in query if name not in SENTINEL_OPTIONS])
        return cls(
            sentinels=tuple(_address(host, SENTINEL_PORT) for host in hosts.split(",")),
            master=master,
            one=f"{parts.scheme.partition('+')[0]}://{user}{at}master/{db}?{rest}",
            sentinel_options={
                name.removeprefix("sentinel_"): value for name, value in query if name in SENTINEL_OPTIONS
            },
        )


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """
    What a `redis+cluster://` URL says: some of the servers, which know the others. The password is in nothing it shows.

    *one* is the URL of a single Redis that says all the rest of it.
    """

    servers: tuple[tuple[str, int], ...]
    one: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Self | None:
        """Read *url*, whose form is known to be right; None if it names no cluster."""
        if not _CLUSTER.fullmatch(url):
            return None
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        scheme = parts.scheme.partition("+")[0]
        servers = tuple(_address(host, PORT) for host in hosts.split(","))
        return cls(servers, f"{scheme}://{user}{at}cluster/?{parts.query}")


def _checked(url: str) -> str:
    url = url.strip()
    if url and not _is_right(url):
        raise PydanticCustomError("redis_url", REDIS_URL_FORM)
    known = OPTIONS + TLS_OPTIONS * url.startswith("rediss") + SENTINEL_OPTIONS * ("+sentinel:" in url)
    for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in known:  # it is not shown: it may be the rest of a password with an & in it
            close = get_close_matches(name, known, 1)
            told = {"meant": f" ({close[0]} may be meant)" if close else "", "known": ", ".join(known)}
            raise PydanticCustomError("redis_url", _UNKNOWN, told)
    return url


def _is_right(url: str) -> bool:
    try:
        if SentinelUrl.parse(url) or ClusterUrl.parse(url):
            return True
        return bool(_ONE.fullmatch(url) and (urlsplit(url).port or True))
    except ValueError:  # a port beyond 65535, or a host in brackets that is no address
        return False


RedisUrl = Annotated[str, AfterValidator(_checked)]  # a setting that has one of the forms, or is empty


def _address(host: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "", parts.port or port

"""What may stand in `redis_url`; a wrong one is refused at the start, and its password not shown."""

import os
import subprocess
from pathlib import Path

import pytest

from gateway.errors import InvalidInput
from gateway.settings import load_settings

ROOT = Path(__file__).parents[2]
GOOD = (
    "",
    "redis://",
    "redis://:p%2Fq@redis:6379/0",
    "rediss://redis?ssl_ca_certs=/etc/ca.pem",
    "unix:///run/redis.sock?db=0",
    "redis+sentinel://a,b:26380,[::1]:2/mymaster",
    "rediss+sentinel://user:p%40q@a:26379,b/mymaster/3?sentinel_password=x&ssl_ca_certs=/etc/ca.pem",
    "redis+cluster://a",
    "rediss+cluster://user:p%40q@a:6379,[::1],b/0?ssl_ca_certs=/etc/ca.pem",
)
WRONG = {
    "another scheme": "http://redis:6379",
    "two addresses of one Redis": "redis://a:6379,b:6379/0",
    "no name of the master": "redis+sentinel://:hush@a:26379,b:26379",
    "a database that is no number": "redis+sentinel://:hush@a:26379/mymaster/first",
    "a password as it is": "redis+sentinel://:hu/sh@a/mymaster/0",
    "a port that is no number": "redis://:hush@a:port/0",
    "a port that cannot be": "redis://:hush@a:99999/0",
    "a sentinel's port that cannot be": "redis+sentinel://:hush@a:99999/mymaster",
    "a cluster's second database": "redis+cluster://:hush@a:6379,b:6379/1",
    "a cluster's port that cannot be": "redis+cluster://:hush@a,b:99999",
    "a cluster of nobody": "redis+cluster://",
}


@pytest.mark.parametrize("url", GOOD)
def test_the_forms_of_a_redis_url_are_taken(url):
    assert load_settings({"SLUICE_REDIS_URL": url + "\n"}).redis_url == url


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis+sentinel://a/mymaster/0?sentinel_pasword=hush", r" \(sentinel_password may be meant\)"),
        ("redis+sentinel://a/mymaster/0?sentinel_password=a&hush", ""),
        ("rediss+cluster://:hush@a,b/0?ssl_ca_cert=/etc/ca.pem", r" \(ssl_ca_certs may be meant\)"),
        ("redis://:hush@a/0?ssl_ca_certs=/etc/ca.pem", ""),
    ],
)
def test_an_option_that_is_not_known_is_refused_at_the_start(url, meant):
    said = f"^redis_url: has an option that connections of this kind do not take{meant}; they take client_name,"
    with pytest.raises(InvalidInput, match=said) as refused:
        load_settings({"SLUICE_REDIS_URL": url})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("url", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_redis_url_is_refused_by_name_and_its_password_not_shown(url):
    with pytest.raises(InvalidInput, match=r"^redis_url: must be redis://.*\(in SLUICE_REDIS_URL\)$") as refused:
        load_settings({"SLUICE_REDIS_URL": url})
    assert "hu" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+sentinel://:hush@a/mymaster/0", "the address of a replica or of the master"),
        ("redis+cluster://:hush@a,b", "save each of its masters"),
    ],
)
def test_a_backup_asks_for_the_address_of_one_server(url, said, tmp_path):
    environ = os.environ | {"SLUICE_REDIS_URL": url}
    command = ["deploy/backup.sh", str(tmp_path), str(tmp_path / "backup")]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)  # noqa: PLW1510  it must fail
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert said in done.stderr
    assert "hush" not in done.stderr

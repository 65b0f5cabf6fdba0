"""Where gateways may reach Redis: its port, and that of sentinels only where there are some."""

import pytest
import yaml

from tests.chart.rendered import named, render

pytestmark = pytest.mark.helm


def ports_outside(objects) -> set[int]:
    policy = named(objects, "NetworkPolicy", "s-sluice-gateway")
    (outside,) = (each for each in policy["spec"]["egress"] if "ipBlock" in str(each.get("to")))
    return {each["port"] for each in outside["ports"]}


@pytest.mark.parametrize(("port", "expected"), [(0, {443, 5432, 6379}), (26379, {443, 5432, 6379, 26379})])
def test_gateways_reach_sentinels_where_their_port_is_named(tmp_path, port, expected):
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"redis": {"sentinelPort": port}}))
    assert ports_outside(render(str(values))) == expected

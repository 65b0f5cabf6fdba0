"""Our HTTP client against a scripted engine on a real socket."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from gateway.serve.wire import UNREAD_BYTES_MAX, ConnectionBroken, ConnectionPool, TookTooLong, TooManyConnections

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


@asynccontextmanager
async def engine(script):
    """Serve *script(reader, writer)* on a free port; gives its URL and the number of connections made."""
    connections = []

    async def serve(reader, writer):
        connections.append(writer)
        try:
            await script(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


@pytest.fixture
def pool():
    pool = ConnectionPool(connect_timeout_s=1, keep_alive_s=5)
    yield pool
    pool.close()


@pytest.fixture
async def url_that_holds():
    async with engine(lambda reader, writer: reader.read()) as (url, _):
        yield url


async def exchange(pool, url):
    connection = pool.take_idle(url) or await pool.connect(url)
    connection.send(REQUEST)
    return connection


async def test_a_body_is_read_to_its_end_and_the_connection_used_again(pool):
    async def script(reader, writer):
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(HEAD + chunk(b"one") + chunk(b"two") + b"0\r\n\r\n")

    async with engine(script) as (url, connections):
        for _ in range(3):
            connection = await exchange(pool, url)
            assert await connection.head(1) == 200
            body = b""
            while part := await connection.read(1):
                body += part
            assert body == b"onetwo"
            pool.give_back(url, connection)
        assert len(connections) == 1


async def test_chunks_that_arrived_together_are_read_together(pool):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"".join(chunk(b"%d" % i) for i in range(10)) + b"0\r\n\r\n")
        await reader.read()

    async with engine(script) as (url, _):
        connection = await exchange(pool, url)
        await connection.head(1)
        assert await connection.read(1) == b"0123456789"
        assert await connection.read(1) == b""
        connection.close()


async def test_a_connection_left_in_mid_body_is_not_used_again(pool):
    left = asyncio.Event()

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunk(b"one"))
        assert await reader.read() == b""
        left.set()

    async with engine(script) as (url, _):
        connection = await exchange(pool, url)
        await connection.head(1)
        await connection.read(1)
        pool.give_back(url, connection)
        await asyncio.wait_for(left.wait(), 1)
        assert pool.take_idle(url) is None


@pytest.mark.parametrize("sent", [b"", HEAD[:20], HEAD, HEAD + chunk(b"one"), HEAD + b"5\r\nab"])
async def test_an_engine_that_breaks_off_anywhere_is_noticed(pool, sent):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)

    async with engine(script) as (url, _):
        connection = await exchange(pool, url)
        with pytest.raises(ConnectionBroken):
            await connection.head(1)
            while await connection.read(1):
                pass
        assert not connection.is_reusable


async def test_an_engine_that_falls_silent_takes_too_long(pool):
    async def script(reader, writer):
        await reader.read()

    async with engine(script) as (url, _):
        connection = await exchange(pool, url)
        with pytest.raises(TookTooLong):
            await connection.head(0.05)
        connection.close()


@pytest.mark.parametrize("sent", [HEAD, HEAD + b"5;"])
async def test_an_engine_that_trickles_gets_no_more_time_than_one_that_is_silent(pool, sent):
    """One byte now and then must not start the limit anew, neither in the head nor between two pieces of a body."""

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        at = len(HEAD) if sent != HEAD else 0
        writer.write(sent[:at])
        for byte in sent[at:] + b"x" * 10_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with engine(script) as (url, _):
        connection = await exchange(pool, url)
        with pytest.raises(TookTooLong):
            await connection.head(0.2)
            await connection.read(0.2)
        connection.close()


async def test_no_more_connections_than_allowed_are_made_to_one_engine(url_that_holds):
    pool = ConnectionPool(connect_timeout_s=1, keep_alive_s=5, connections_max=2)
    first, second = await pool.connect(url_that_holds), await pool.connect(url_that_holds)
    with pytest.raises(TooManyConnections, match="2 connections"):
        await pool.connect(url_that_holds)
    first.close()
    while pool.connections(url_that_holds) == 2:
        await asyncio.sleep(0)
    third = await pool.connect(url_that_holds)
    for connection in (second, third):
        connection.close()
    while pool.connections(url_that_holds):
        await asyncio.sleep(0)
    pool.close()


async def test_connections_that_could_not_be_made_do_not_count(pool):
    async with engine(lambda reader, writer: reader.read()) as (url, _):
        pass
    for _ in range(3):
        with pytest.raises(ConnectionBroken):
            await pool.connect(url)
    assert pool.connections(url) == 0


async def test_what_is_not_http_breaks_the_connection(pool):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()

    async with engine(script) as (url, _):
        connection = await exchange(pool, url)
        with pytest.raises(ConnectionBroken):
            await connection.head(1)


async def test_a_port_nobody_listens_on_is_broken_at_once(pool):
    async with engine(lambda reader, writer: reader.read()) as (url, _):
        pass
    with pytest.raises(ConnectionBroken):
        await pool.connect(url)


async def test_a_reader_that_does_not_read_stops_the_engine(pool):
    """The gateway must not hold in memory what its client does not take."""
    sent = 0

    async def script(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for _ in range(1000):
            writer.write(chunk(b"x" * 65536))
            await writer.drain()
            sent += 65536

    async with engine(script) as (url, _):
        connection = await exchange(pool, url)
        await connection.head(1)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 1000 * 65536
        assert connection._unread <= 2 * UNREAD_BYTES_MAX + (1 << 18)
        received = 0
        while received < 1000 * 65536:
            received += len(await connection.read(2))
        connection.close()


async def test_idle_connections_to_vanished_engines_are_swept(pool):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await reader.read()

    async with engine(script) as (url, connections):
        connection = await exchange(pool, url)
        await connection.head(1)
        assert await connection.read(1) == b""
        pool.give_back(url, connection)
        assert "1 idle" in repr(pool)
        connections[0].transport.abort()
    while "0 idle" not in repr(pool):
        pool.sweep()
        await asyncio.sleep(0)

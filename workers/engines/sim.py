"""
The simulated engine's command: `python -m workers.engines.sim --port 0 --model tiny`.

It prints one JSON line with its URL when it listens, and ends on SIGTERM or SIGINT. With the same requests in the same
order it makes the same tokens on every machine. VLLM_API_KEY sets the key it asks for, as it does for vLLM.
"""

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from workers.engines.sim_batch import Pace
from workers.engines.sim_cache import BLOCK_TOKENS
from workers.engines.sim_engine import Engine, SimConfig
from workers.engines.sim_faults import Faults
from workers.engines.sim_http import Connection

_BACKLOG = 4096  # connections that may arrive at once: a burst of streams opens that many


async def serve(
    config: SimConfig, host: str, port: int, ready: Callable[[str], None], tls: ssl.SSLContext | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; *ready* gets the URL once connections are accepted."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    engine = Engine(config)
    server = await loop.create_server(partial(Connection, engine.serve), host, port, backlog=_BACKLOG, ssl=tls)
    try:
        ready(f"{'https' if tls else 'http'}://{host}:{server.sockets[0].getsockname()[1]}")
        await stopped.wait()
    finally:
        server.close()


def main() -> None:
    """Run the simulated engine from the command line."""
    options = _parser().parse_args()
    if options.cache_blocks * BLOCK_TOKENS < options.max_model_len:
        sys.exit(f"--cache-blocks {options.cache_blocks}: a context of {options.max_model_len} tokens would not fit")
    try:
        uvloop.run(serve(_config(options), options.host, options.port, _announce, _tls(options)))
    except OSError as error:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {error.strerror}")


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.ssl_certfile is None:
        return None
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
    return tls


def _announce(url: str) -> None:
    print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)  # noqa: T201


def _config(options: argparse.Namespace) -> SimConfig:
    pace = Pace(
        prefill_tokens_per_s=options.prefill_tokens_per_s,
        inter_token_s=options.inter_token_ms / 1000,
        max_num_seqs=options.max_num_seqs,
        max_batched_tokens=options.max_num_batched_tokens,
        cache_blocks=options.cache_blocks,
    )
    return SimConfig(
        models=tuple(options.served_model_name or [options.model]),
        max_model_len=options.max_model_len,
        pace=pace,
        api_key=os.environ.get("VLLM_API_KEY", ""),
        mean_tokens=options.mean_tokens,
        ends_despite_max_tokens=options.ends_despite_max_tokens,
        stream_interval=options.stream_interval,
        can_sleep=options.enable_sleep_mode,
        journal_file=options.journal,
        faults=Faults.model_validate_json(options.faults),
        seed=options.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.engines.sim", description=__doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0 takes a free one")
    add("--ssl-certfile", help="a certificate (PEM): it serves https")
    add("--ssl-keyfile", help="the certificate's private key (PEM)")
    add("--model", default="tiny", help="the name it serves, unless --served-model-name says otherwise")
    add("--served-model-name", nargs="+", help="names it serves; it answers with the first")
    add("--max-model-len", type=int, default=4096, help="context length in tokens")
    add("--max-num-seqs", type=int, default=256, help="sequences in a batch; more wait in the engine")
    add("--max-num-batched-tokens", type=int, default=8192, help="tokens in a step")
    add("--prefill-tokens-per-s", type=float, default=20_000.0)
    add("--inter-token-ms", type=float, default=20.0, help="a step without prefill; 50 gives 20 tokens/s per stream")
    add("--cache-blocks", type=int, default=4096, help=f"KV cache, in blocks of {BLOCK_TOKENS} tokens")
    add("--mean-tokens", type=int, default=128, help="mean length of an answer to a request without max_tokens")
    add("--ends-despite-max-tokens", action="store_true", help="let answers also end below the max_tokens asked for")
    add("--stream-interval", type=int, default=1, help="tokens in a frame of a stream, but for the first and the last")
    add("--enable-sleep-mode", action="store_true", help="answer POST /sleep and /wake_up")
    add("--journal", type=Path, help="a file to which a line of JSON is added for every request that ended")
    add("--faults", default="{}", help='JSON as for POST /sim/faults, e.g. {"slow_start_s": 5, "error_next": 2}')
    add("--seed", type=int, default=0, help="of the dice for error_probability")
    return parser


if __name__ == "__main__":
    main()

"""
The part of a vLLM engine that runs on a host other than its leader's: `python -m workers.engines.vllm_follower`.

It takes the options of `vllm serve` and opens no port for clients. vLLM has this as `vllm serve --headless`, whose
console script the CPU build lacks.
"""

from vllm.entrypoints.cli.serve import run_headless
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args()
    arguments.api_server_count = 0
    run_headless(arguments)

"""The simulated engine as an engine: its command line and environment."""

import sys

from workers.engines.launch import EngineOptions, Launch, inherited_environment


def launch(options: EngineOptions) -> Launch:
    """Give the command and environment that serve *options*; *model* is only a name here."""
    argv = [sys.executable, "-m", "workers.engines.sim", "--model", options.model]
    argv += ["--served-model-name", *options.served_names, "--host", options.host, "--port", str(options.port)]
    argv += ["--max-num-seqs", str(options.max_num_seqs), "--max-num-batched-tokens", str(options.max_batched_tokens)]
    if options.max_model_len is not None:
        argv += ["--max-model-len", str(options.max_model_len)]
    if options.cert is not None and options.key is not None:
        argv += ["--ssl-certfile", str(options.cert), "--ssl-keyfile", str(options.key)]
    if options.can_sleep:
        argv.append("--enable-sleep-mode")
    return Launch((*argv, *options.extra_args), {**inherited_environment(), "VLLM_API_KEY": options.api_key})

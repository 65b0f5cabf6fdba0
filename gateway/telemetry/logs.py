"""Log events: structured, one line each, to stdout. Prompts, completions and secrets never enter one."""

import logging
import sys

import structlog


def configure_logs(log_format: str, level: str) -> None:
    """Set up structlog for the process; *log_format* is json or console, *level* as in the settings."""
    last = structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )

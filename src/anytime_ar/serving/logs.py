"""Logging to standard error as JSON, one object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from anytime_ar.serving.engine.jobs import RequestContext

_log = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """A formatter that writes a log record as one line of JSON.

    The object holds the time, the level, the message, the record's figures and, after an exception,
    the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        figures: dict[str, Any] = getattr(record, "figures", {})
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **figures,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr() -> None:
    """Send the logs of the server and of uvicorn to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("anytime_ar", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("anytime_ar").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # access is logged by `log_request`


def log_request(context: RequestContext, method: str, path: str, status: int) -> None:
    """Log a request that has been answered.

    Args:
        context: What is known of the request: client, model, timing and any error.
        method: HTTP method of the request.
        path: Path of the request.
        status: HTTP status of the response.
    """
    figures: dict[str, Any] = {
        "method": method,
        "path": path,
        "status": status,
        "client": context.client,
        "ms": _ms(context.clock() - context.arrival),
    }
    for name in ("model", "n", "error"):
        if (value := getattr(context, name)) is not None:
            figures[name] = value
    if (stats := context.stats) is not None:
        figures |= {
            "codes_drawn": stats.codes_drawn,
            "codes_requested": context.codes_requested,
            "stop_reason": stats.stop_reason,
            "queue_ms": _ms(stats.queue_s),
            "sampling_ms": _ms(stats.sampling_s),
            "decode_ms": _ms(stats.decode_s),
        }
    if context.deadline is not None:
        figures["late_ms"] = _ms(context.clock() - context.deadline)
    _log.info("request", extra={"figures": figures})


def log_event(message: str, **figures: Any) -> None:
    """Log an event of the server.

    Args:
        message: What happened.
        **figures: Further fields of the line.
    """
    _log.info(message, extra={"figures": figures})


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)

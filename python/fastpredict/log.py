"""The package's logger, and what the command does to show it on standard error."""

import contextlib
import logging
import sys
from collections.abc import Iterator

logger = logging.getLogger("fastpredict")

#: What ``--log-level`` takes, in rising order of what is left out.
LEVELS = ("debug", "info", "warning", "error", "critical")


def say(line: str) -> None:
    """Write one line for people to standard error, in one piece: a child may say something, too.

    Where nobody can see it, there is other work to be finished.
    """
    with contextlib.suppress(OSError, ValueError):  # a pipe whose reader has gone; a closed file
        if sys.stderr is not None:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


@contextlib.contextmanager
def to_stderr(level: str) -> Iterator[None]:
    """Show the package's log on standard error while the block runs; afterwards all is as before.

    A program that has set up logging itself keeps its own handlers, and only the level is set. It
    may not even know that logging.config has disabled a logger that it doesn't name: ours is on.
    """
    old_level, old_propagate, old_disabled = logger.level, logger.propagate, logger.disabled
    logger.disabled = False
    handler: logging.Handler | None = None
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        # Otherwise every line would come twice once the user's module calls basicConfig().
        logger.propagate = False
    logger.setLevel(level.upper())
    try:
        yield
    finally:
        logger.setLevel(old_level)
        logger.disabled = old_disabled
        if handler is not None:
            logger.removeHandler(handler)
            logger.propagate = old_propagate

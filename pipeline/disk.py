"""What an operating system says of a failed file, as a sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import Invalid, Unavailable

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk(where: str, what: str = "the disk", variable: str = "SLIPWAY_HOME") -> Iterator[None]:
    """Turn a failure into a sentence; `variable` sets the place. A file that is not there stays FileNotFoundError.

    Raises:
        Unavailable: it is full, or it failed. A retry helps.
        Invalid: it may not be written. A retry does not help.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        # a tree's copy gathers its failures as text
        if error.errno in _FULL or (isinstance(error, shutil.Error) and f"[Errno {errno.ENOSPC}]" in str(error)):
            raise Unavailable("the disk is full", where, "free some space and run again; nothing was lost") from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise Invalid("no permission to write", where, f"give this user the right, or set {variable}") from error
        raise Unavailable(f"{what} failed: {error}", where, "run again when it answers") from error

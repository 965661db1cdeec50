"""JSON files of ours that carry a checksum of their content: what is damaged is noticed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from firstlight.data.files import MAX_BYTES, read_limited, unreadable

SEAL = "sha256"
"""The last key, with the checksum of the others."""


def sealed(content: dict[str, Any]) -> str:
    """Return the text of a file that holds `content`."""
    return json.dumps({**content, SEAL: _checksum(content)}, indent=2) + "\n"


def read_sealed(file: Path) -> dict[str, Any]:
    """Read what `sealed` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or is damaged.
    """
    try:
        content: Any = json.loads(read_limited(file, MAX_BYTES))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(file, error) from None
    except (ValueError, RecursionError):
        raise ValueError(f"path ({file}) is damaged: it is not JSON") from None
    if not isinstance(content, dict) or content.pop(SEAL, None) != _checksum(content):
        raise ValueError(f"path ({file}) is damaged: it does not have its own checksum")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()

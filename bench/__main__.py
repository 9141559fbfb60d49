"""Run all measurements but the long ones, or those named."""

import os
import subprocess
import sys
from pathlib import Path

NAMES = ("ingest", "answers", "engine", "kv_memory", "runs", "kills", "bad_input", "evaluation_kills")
# An hour and more, so only when it is named.
LONG = ("evaluation", "memory_quality", "random_heads", "soak", "craft", "abstention", "long", "documents")
LONG += ("passkeys", "compression", "retrieval_heads")


def main() -> int:
    """Each measurement in a process of its own, so that its peak memory is its own."""
    data = Path(os.environ.get("REFDESK_SHARED_DATA", "../shared/data"))
    if not data.is_dir():
        sys.stderr.write(f"no evaluation data at {data}; set REFDESK_SHARED_DATA\n")
        return 1
    names = sys.argv[1:] or NAMES
    if unknown := [name for name in names if name not in NAMES + LONG]:
        sys.stderr.write(f"unknown measurement {unknown[0]}; known: {', '.join(NAMES + LONG)}\n")
        return 2
    return max(subprocess.call([sys.executable, "-m", f"bench.{name}", str(data)]) for name in names)


if __name__ == "__main__":
    sys.exit(main())

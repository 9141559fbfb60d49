"""Refdesk: a reference desk for long private documents."""

import os

__version__ = "0.1.0"

# Threads of one computation that wait for each other sleep instead of spinning. OpenMP reads this once, when torch
# is imported. With anything else running, such as an embedding beside an answer, a thread that spins holds up the
# one that it waits for (docs/results.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

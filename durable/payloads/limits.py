"""The limits of one value. They are checked at the edge, and the error names the limit and the size."""

from __future__ import annotations

# A value travels in a record, and records are stored in parts of 512 KiB: larger data belongs in a blob store, with its
# address in the payload. (2 MiB is what Temporal and Azure Durable Functions settled near, too.)
PAYLOAD_BYTES_MAX = 2 * 1024 * 1024

# Containers inside one another. Real data stays under 30; the bound keeps every recursive reader, ours and the
# user's, far from Python's own stack limit of 1,000 frames.
DEPTH_MAX = 128

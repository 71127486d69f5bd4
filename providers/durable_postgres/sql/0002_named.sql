-- Version 2: listings by the name of an orchestrator find their page along an index, as those by status do.

CREATE INDEX runs_named ON runs (kind, name, created_at, id);

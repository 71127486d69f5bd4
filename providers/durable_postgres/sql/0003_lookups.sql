-- Version 3: an instance is found by its key along the primary key, whatever the planner knows of the table.
--
-- Listings begin with the kind and end with the id as well, so that a plan which was made while the table was empty, when every
-- index costs the same, could look instances up by walking a listing from end to end, and did. "POSIX" is another name of
-- the collation "C": the order is the same, but only a query that says so, a listing, can use these indexes.

DROP INDEX runs_listed;
CREATE INDEX runs_listed ON runs (kind COLLATE "POSIX", status, created_at, id COLLATE "POSIX");
DROP INDEX runs_named;
CREATE INDEX runs_named ON runs (kind COLLATE "POSIX", name, created_at, id COLLATE "POSIX");

"""For tests: of storage engines, see `durable.testing.conformance`."""

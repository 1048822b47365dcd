"""The tests; a package, so that `tests.servers` is never somebody else's."""

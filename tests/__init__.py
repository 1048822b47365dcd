"""The tests. They are a package, so that `tests.support` is not found elsewhere."""

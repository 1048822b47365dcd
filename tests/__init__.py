"""The tests; a package, so that `tests.support.llama_server` is never somebody else's."""

"""Redaction of spans, log records and resources before they are exported.

`rules` and `patterns` define the redacted data, `redactor` applies them to values. `spans` and
`logs` connect it to the SDK, `secret_spans` does so without any option. A start with the default
`options` does not load the rules. Whether content is recorded at all is decided by the
instrumentations.
"""

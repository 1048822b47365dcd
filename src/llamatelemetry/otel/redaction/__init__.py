"""Redaction of spans, log records and resources before they are exported.

`rules` and `patterns` define the redacted data, `redactor` applies them to values. `spans` and
`logs_and_metrics` connect it to the SDK. Whether content is recorded at all is decided by the
instrumentations.
"""

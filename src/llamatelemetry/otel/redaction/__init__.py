"""Redaction: what is taken out of spans, log records and resources before they are exported.

`patterns`, `content` and `secret_text` are plain reading and need no SDK; `spans`, `logs` and
`resources` plug into it. What an instrumentation records in the first place is not decided here.
"""

"""Content of calls: messages in the conventions' schema, size limits, and where content is recorded.

Nothing here runs unless content is captured or a completion hook is set.
"""

"""llama.cpp: its server and its clients.

Importing this package loads nothing; import what you need from its modules.
"""

"""Processes and time: fork handling, leader election, deadlines."""

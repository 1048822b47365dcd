"""Servers, responses, recorders and other support that tests of several folders share."""

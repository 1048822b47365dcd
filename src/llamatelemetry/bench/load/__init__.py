"""Load generation: how many requests to send, when to send them, and with which prompts."""

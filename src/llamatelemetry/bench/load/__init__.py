"""Load generation: prompts, number of requests, arrival times, and the driver that sends them."""

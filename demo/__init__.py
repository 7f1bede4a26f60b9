"""Real webhook payloads through a running gateway and back; run it with `python -m demo`."""

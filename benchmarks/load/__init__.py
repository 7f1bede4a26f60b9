"""The load generator: wrk, driven by a generated Lua script."""

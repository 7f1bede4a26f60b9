"""The way in: listeners, TLS and the PROXY protocol, up to where HTTP begins.

Called by `server`; hands each client's connection to a protocol that the ingress makes.
"""

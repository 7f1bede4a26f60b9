"""The control plane: users, tokens and stations, over one store in the broker's key-value bucket.

Everything durable lives in the broker; each process holds a mirror that a watch keeps true within
a second. Nothing here is on the way of a produced message. It must never log a hash or a secret.
"""

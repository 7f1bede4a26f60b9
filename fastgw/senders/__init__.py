"""What the senders of webhooks prove their messages with.

What enters: a station's verifier as stored. What leaves: an object that judges a request's headers
and body. Called by the station table, which hands it to the core. It must never await, nor show a
secret or a signature that would have been right.
"""

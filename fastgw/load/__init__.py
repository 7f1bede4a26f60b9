"""Load at a constant rate against a gateway that already runs: what `fastgw bench` does.

What enters: a `Plan`. What leaves: a `Report`. The rate is open: a request is due at its moment
whether or not earlier ones were answered, and its latency counts from that moment, so that waiting
is not hidden. Nothing that serves requests imports this package, and it imports none of that.
It must never hold more than one answer per connection, nor show a credential.
"""

"""Schemas: a text becomes a validator, bytes become a verdict.

One module per type (`json`, `protobuf`, `avro`, `graphql`), one face for all of them (`base`).
Nothing here knows the broker, HTTP or the registry; `control.schemas` compiles, the core calls.
"""

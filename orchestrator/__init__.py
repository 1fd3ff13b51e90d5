"""The engine: spec, plan, state, events, cache, gateway, mirror, jobs, command line, embedded stack."""

__version__ = "0.1.0"

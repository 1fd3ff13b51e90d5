"""Runs generated code where it can do no harm.

`means` finds out how on this machine, by a real try; each means runs an `Errand` and returns how it `Ran`. Those of
Linux (`linux`) have a `warden` as process 1, which `enter` puts into namespaces, or bubblewrap does; `supervise`
stands outside, reads the output and ends it all in time. `plain` is no sandbox, for those who allow that.
"""

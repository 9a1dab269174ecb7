"""Everything read from the environment: once, at start, by the process that needs it.

`web`, `callbacks` and `worker` have what one process reads, `common` what all of them read, and
`values` what a value must look like. No value is ever part of a message: it might be a secret.
"""

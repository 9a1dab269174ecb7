"""What we stand on and did not write: is it known to be vulnerable, may we use it, is it what we think it is?

`python -m tests.supply_chain` asks the first two, and `make check` runs it: `audit` and `licences` judge what
`requirements.lock` names, by `docs/supply-chain.toml`. README.md has the rules.
"""

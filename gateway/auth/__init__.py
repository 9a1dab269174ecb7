"""Who calls: the keys of the issuer, and what a token must say."""

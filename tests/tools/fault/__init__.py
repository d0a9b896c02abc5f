"""Every allocation of a fork is made to fail in turn, and what the tool says is held against the truth."""

"""What a release changes: the changelog and the version; scripts/release runs it."""
